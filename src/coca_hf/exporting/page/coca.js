// Copyright 2026 The coca_hf authors. All rights reserved.
// SPDX-License-Identifier: Apache-2.0
// An exported CoCa on onnxruntime-web: pictures to pixels as the processor makes them, greedy captions, labels.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { pixelValues } from "./pixels.js";
import { Tokenizer } from "./tokenizer.js";

const tensorOfIds = (rows) => {
  const flat = rows.flat().map(BigInt);
  return new ort.Tensor("int64", BigInt64Array.from(flat), [rows.length, rows[0].length]);
};

export class CoCa {
  static async load(base, say = () => {}) {
    ort.env.wasm.wasmPaths = { wasm: new URL("ort/ort-wasm-simd-threaded.wasm", base).href };
    // More threads need headers that a static server does not send.
    ort.env.wasm.numThreads = 1;
    const fetched = async (name) => {
      const answer = await fetch(new URL(name, base));
      if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
      return answer;
    };
    const settings = await (await fetched("page.json")).json();
    const model = new CoCa(settings, new Tokenizer(await (await fetched("tokenizer.json")).json(), settings));
    for (const name of settings.programs) {
      say(`Loading ${name.replace("_", " ")} …`);
      const bytes = new Uint8Array(await (await fetched(`${name}.onnx`)).arrayBuffer());
      model.programs[name] = await ort.InferenceSession.create(bytes);
    }
    return model;
  }

  constructor(settings, tokenizer) {
    this.settings = settings;
    this.tokenizer = tokenizer;
    this.programs = {};
    this.captions = settings.programs.includes("decoder_step");
    this.textEmbeds = new Map();
  }

  // A file or blob -> what the model sees of it.
  async look(file) {
    const { data, height, width } = await pixelValues(file, this.settings.image);
    const pixels = new ort.Tensor("float32", data, [1, 3, height, width]);
    const vision = await this.programs.vision.run({ pixel_values: pixels });
    return { embed: normalized(vision.pooler_output.data), tokens: vision.image_tokens };
  }

  // Token ids of the greedy caption, the start token first; `onToken` gets the text so far.
  async captionIds(seen, onToken = () => {}) {
    const { start, ends, pad, context, layers, heads, headSizes, maskedPad } = this.settings.text;
    seen.memory ??= await this.programs.image_memory.run({ image_tokens: seen.tokens });
    const ids = [start];
    let cache = {};
    for (let layer = 0; layer < layers; layer++) {
      const empty = () => new ort.Tensor("float32", new Float32Array(0), [1, heads[layer], 0, headSizes[layer]]);
      cache[`keys.${layer}`] = empty();
      cache[`values.${layer}`] = empty();
    }
    while (ids.length < context) {
      const past = ids.length - 1;
      const seenIds = ids.map(() => 1);
      // A tower with [CLS] does not see the token after one that pads: its mask is one position late.
      const keys = Uint8Array.from(ids, (_, index) => (maskedPad && index > 0 && ids[index - 1] === pad ? 0 : 1));
      const outputs = await this.programs.decoder_step.run({
        input_ids: tensorOfIds([[ids[past]]]),
        position_ids: tensorOfIds([[past]]),
        attention_mask: tensorOfIds([seenIds]),
        text_key_mask: new ort.Tensor("bool", keys, [1, ids.length]),
        logit_positions: new ort.Tensor("int64", BigInt64Array.of(0n), [1]),
        ...seen.memory,
        ...cache,
      });
      const next = argmax(outputs.logits.data);
      ids.push(next);
      if (ends.includes(next)) break;
      onToken(this.tokenizer.decode(ids));
      cache = {};
      for (let layer = 0; layer < layers; layer++) {
        cache[`keys.${layer}`] = outputs[`new_keys.${layer}`];
        cache[`values.${layer}`] = outputs[`new_values.${layer}`];
      }
    }
    return ids;
  }

  async caption(seen, onToken) {
    return this.tokenizer.decode(await this.captionIds(seen, onToken));
  }

  // The probability of each label, as `coca-hf classify` gives it.
  async compare(seen, labels) {
    const { scale, bias, template } = this.settings.similarity;
    const logits = [];
    for (const label of labels) {
      const embed = await this.textEmbed(template.replace("{}", label));
      logits.push(Math.exp(scale) * embed.reduce((sum, value, index) => sum + value * seen.embed[index], 0) + bias);
    }
    const highest = Math.max(...logits);
    const shares = logits.map((logit) => Math.exp(logit - highest));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return shares.map((share) => share / total);
  }

  async textEmbed(text) {
    if (!this.textEmbeds.has(text)) {
      const ids = this.tokenizer.encode(text);
      const outputs = await this.programs.text.run({
        input_ids: tensorOfIds([ids]),
        attention_mask: tensorOfIds([ids.map(() => 1)]),
      });
      this.textEmbeds.set(text, normalized(outputs.pooler_output.data));
    }
    return this.textEmbeds.get(text);
  }
}

function argmax(values) {
  let best = 0;
  for (let index = 1; index < values.length; index++) if (values[index] > values[best]) best = index;
  return best;
}

function normalized(values) {
  const length = Math.hypot(...values);
  return Array.from(values, (value) => value / length);
}
