// Codes as a coloured grid: the same code has the same colour everywhere.

import {el} from "/static/app.js";

export const positions = (grid) => grid.reduce((product, size) => product * size, 1);

const ABREAST = 8;  // frames of a clip in a row, as items.py lays them out

// Rows and columns in which a grid is drawn: a sequence in one row, a clip with its frames side by side.
export function drawnShape(grid) {
  if (grid.length === 1) return [1, grid[0]];
  if (grid.length === 2) return grid;
  return [Math.ceil(grid[0] / ABREAST) * grid[1], Math.min(grid[0], ABREAST) * grid[2]];
}

// The drawn row and column of a position in raster order, and back.
export function placeOf(grid, position) {
  if (grid.length === 1) return [0, position];
  const [height, width] = grid.slice(-2);
  const frame = Math.floor(position / (height * width));
  const within = position % (height * width);
  return [Math.floor(frame / ABREAST) * height + Math.floor(within / width), frame % ABREAST * width + within % width];
}

export function positionAt(grid, row, column) {
  if (grid.length === 1) return column;
  const [height, width] = grid.slice(-2);
  const frame = Math.floor(row / height) * ABREAST + Math.floor(column / width);
  return Math.min(frame * height * width + row % height * width + column % width, positions(grid) - 1);
}

// Of a code from 0 to K - 1: hues far apart for neighbours, in three lightnesses. -1, not drawn yet, is grey.
export function colour(code) {
  if (code < 0) return [128, 128, 128, 70];
  const hue = code * 0.6180339887 % 1;
  const light = [0.5, 0.64, 0.38][code % 3];
  const part = (shift) => {
    const k = (shift + hue * 12) % 12;
    return Math.round(255 * (light - 0.62 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4), 255];
}

export const css = (code) => { const [r, g, b] = colour(code); return `rgb(${r}, ${g}, ${b})`; };

// Draws codes (flat, `books` at each position, of which the first is shown) on a canvas, one pixel a code.
export function drawCodes(canvas, codes, grid, books = 1) {
  const [rows, columns] = drawnShape(grid);
  canvas.width = columns;
  canvas.height = rows;
  const pixels = new ImageData(columns, rows);
  for (let position = 0; position < codes.length / books; position++) {
    const [row, column] = placeOf(grid, position);
    if (column < columns) pixels.data.set(colour(codes[position * books]), 4 * (row * columns + column));
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// What the server's `shown` gave, as elements: an image, and something to hear.
export function item(found, words = "") {
  return el("figure", {}, el("img", {src: found.image, alt: words || "item", class: found.audio ? "spectrum" : null}),
            found.audio ? el("audio", {src: found.audio, controls: true}) : null,
            words ? el("figcaption", {}, words) : null);
}
