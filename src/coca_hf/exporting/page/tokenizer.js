// Copyright 2026 The coca_hf authors. All rights reserved.
// SPDX-License-Identifier: Apache-2.0
// The tokenizer of tokenizer.json: byte-pair encoding as CLIP has it, without the repair of broken text.

const WORDS = /'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;
const END_OF_WORD = "</w>";

// The 256 characters that stand for bytes, by byte.
function byteCharacters() {
  const characters = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    characters.push(String.fromCharCode(isPrintable ? byte : next++));
  }
  return characters;
}

export class Tokenizer {
  constructor(file, settings) {
    this.start = settings.text.start;
    this.end = settings.text.ends[0];
    this.context = settings.text.context;
    this.ids = new Map(Object.entries(file.model.vocab));
    this.tokens = new Map([...this.ids].map(([token, id]) => [id, token]));
    const pairs = file.model.merges.map((pair) => (Array.isArray(pair) ? pair.join(" ") : pair));
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    this.special = new Set(file.added_tokens.filter((token) => token.special).map((token) => token.id));
    this.characters = byteCharacters();
    this.bytes = new Map(this.characters.map((character, byte) => [character, byte]));
  }

  // Ids between start and end token, cut to the context.
  encode(text) {
    const cleaned = text.normalize("NFC").trim().replace(/\s+/gu, " ").toLowerCase();
    const ids = [...cleaned.matchAll(WORDS)].flatMap(([word]) => this.pieces(word));
    return [this.start, ...ids.slice(0, this.context - 2), this.end];
  }

  pieces(word) {
    let parts = Array.from(new TextEncoder().encode(word), (byte) => this.characters[byte]);
    parts[parts.length - 1] += END_OF_WORD;
    while (parts.length > 1) {
      const ranks = parts.slice(1).map((part, index) => this.ranks.get(`${parts[index]} ${part}`) ?? Infinity);
      const best = Math.min(...ranks);
      if (best === Infinity) break;
      const at = ranks.indexOf(best);
      parts = [...parts.slice(0, at), parts[at] + parts[at + 1], ...parts.slice(at + 2)];
    }
    return parts.map((part) => this.ids.get(part)).filter((id) => id !== undefined);
  }

  decode(ids) {
    const words = ids.filter((id) => !this.special.has(id)).map((id) => this.tokens.get(id) ?? "");
    const text = words.join("").replaceAll(END_OF_WORD, " ");
    const bytes = Uint8Array.from([...text].flatMap((character) => (character === " " ? [32] : [this.bytes.get(character) ?? 63])));
    return new TextDecoder().decode(bytes).replace(/\s+/gu, " ").trim();
  }
}
