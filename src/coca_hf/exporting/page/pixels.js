// Copyright 2026 The coca_hf authors. All rights reserved.
// SPDX-License-Identifier: Apache-2.0
// A picture to pixel values as the package's image processor makes them: Pillow's bicubic filter and its rounding.

// Rounds half to even, as Python does.
function rounded(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

// (height, width) to resize to, as `resized_size` of the image processor.
export function resizedSize(height, width, { size, mode }) {
  const [tall, wide] = size;
  if (mode === "squash") return [tall, wide];
  if (mode === "shortest" && tall === wide) {
    return width <= height
      ? [Math.floor((tall * height) / width), tall]
      : [tall, Math.floor((tall * width) / height)];
  }
  const ratios = [height / tall, width / wide];
  const ratio = mode === "shortest" ? Math.min(...ratios) : Math.max(...ratios);
  return [Math.max(rounded(height / ratio), 1), Math.max(rounded(width / ratio), 1)];
}

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

const FILTERS = { bicubic: [cubic, 2], bilinear: [(x) => Math.max(0, 1 - Math.abs(x)), 1] };

// For each new pixel of a line: the first old one that it is made of, and the weight of each.
function weights(length, wanted, [filter, support]) {
  const scale = length / wanted;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  return Array.from({ length: wanted }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const last = Math.min(length, Math.floor(centre + reach + 0.5));
    const row = [];
    for (let old = first; old < last; old++) row.push(filter((old - centre + 0.5) / stretch));
    const total = row.reduce((sum, weight) => sum + weight, 0);
    return [first, row.map((weight) => weight / total)];
  });
}

// Bytes of four channels; lines along one axis become `wanted` long. Each pass ends in bytes, as Pillow's do.
function resizeAxis(pixels, height, width, wanted, isAcross, filter) {
  const table = weights(isAcross ? width : height, wanted, filter);
  const lines = isAcross ? height : width;
  const [newHeight, newWidth] = isAcross ? [height, wanted] : [wanted, width];
  const made = new Uint8ClampedArray(4 * newHeight * newWidth);
  const step = isAcross ? 4 : 4 * width;
  for (let line = 0; line < lines; line++) {
    const start = isAcross ? 4 * width * line : 4 * line;
    for (let index = 0; index < wanted; index++) {
      const [first, row] = table[index];
      const at = isAcross ? 4 * (newWidth * line + index) : 4 * (newWidth * index + line);
      for (let channel = 0; channel < 4; channel++) {
        let sum = 0;
        let from = start + step * first + channel;
        for (let each = 0; each < row.length; each++, from += step) sum += row[each] * pixels[from];
        made[at + channel] = Math.floor(sum + 0.5);
      }
    }
  }
  return made;
}

function resize(pixels, height, width, [newHeight, newWidth], filter) {
  const weighed = hasHoles(pixels) ? weighedByAlpha(pixels) : pixels;
  let made = width === newWidth ? weighed : resizeAxis(weighed, height, width, newWidth, true, filter);
  made = height === newHeight ? made : resizeAxis(made, height, newWidth, newHeight, false, filter);
  return weighed === pixels ? made : withoutAlpha(made);
}

function hasHoles(pixels) {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] !== 255) return true;
  return false;
}

// As Pillow resizes pictures with transparency: colours count by their alpha.
function weighedByAlpha(pixels) {
  const made = new Uint8ClampedArray(pixels);
  for (let at = 0; at < made.length; at += 4) {
    for (let channel = 0; channel < 3; channel++) made[at + channel] = (pixels[at + channel] * pixels[at + 3]) / 255;
  }
  return made;
}

function withoutAlpha(pixels) {
  const made = new Uint8ClampedArray(pixels);
  for (let at = 0; at < made.length; at += 4) {
    const alpha = pixels[at + 3];
    if (!alpha) continue;
    for (let channel = 0; channel < 3; channel++) made[at + channel] = Math.trunc((255 * pixels[at + channel]) / alpha);
  }
  return made;
}

// A file or blob -> { data, height, width }: floats by channel, row and column.
export async function pixelValues(file, settings) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const drawing = canvas.getContext("2d", { willReadFrequently: true });
  drawing.drawImage(bitmap, 0, 0);
  const { height, width } = bitmap;
  let pixels = drawing.getImageData(0, 0, width, height).data;
  let [tall, wide] = [height, width];
  if (settings.size) {
    const wanted = resizedSize(height, width, settings);
    pixels = resize(pixels, height, width, wanted, FILTERS[settings.filter]);
    [tall, wide] = wanted;
  }
  return cropped(pixels, tall, wide, settings);
}

function cropped(pixels, tall, wide, { crop, mean, std, fill }) {
  const [height, width] = crop ?? [tall, wide];
  const above = Math.floor(Math.max(height - tall, 0) / 2);
  const before = Math.floor(Math.max(width - wide, 0) / 2);
  const top = rounded((Math.max(tall, height) - height) / 2) - above;
  const left = rounded((Math.max(wide, width) - width) / 2) - before;
  const data = new Float32Array(3 * height * width);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [row, column] = [y + top, x + left];
        const isThere = row >= 0 && row < tall && column >= 0 && column < wide;
        const level = isThere ? pixels[4 * (row * wide + column) + channel] : fill[channel];
        const share = Math.fround(level / 255);
        data[(channel * height + y) * width + x] = Math.fround(share - Math.fround(mean[channel])) / Math.fround(std[channel]);
      }
    }
  }
  return { data, height, width };
}
