// The answers of the page: a compressed index, and compressed chunks of texts and images that are read when they are needed.

const ANSWERED = 1;
const RIGHT = 2;
const PARTLY = 4;
const UNREADABLE = 8;
const TRUNCATED = 16;
const NOT_COMPLIANT = 32;
const VERDICT_ZERO = 48;

// Numbers per answer in a chunk: source, prompt, thinking, response, answer, score in thousandths.
const ANSWER_WIDTH = 6;

async function unpack(id) {
  const holder = document.getElementById(id);
  const bytes = Uint8Array.from(atob(holder.textContent), (character) => character.charCodeAt(0));
  holder.textContent = "";
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

class AnswerData {
  static async load() {
    return new AnswerData(await unpack("answers-index"));
  }

  constructor(index) {
    this.index = index;
    this.count = index.items.id.length;
    this.chunkCount = 1 + index.items.chunk.reduce((most, chunk) => Math.max(most, chunk), -1);
    this.chunks = new Map();
    this.imageChunks = new Map();
    // The place of each item in its chunk.
    const filled = new Array(this.chunkCount).fill(0);
    this.places = index.items.chunk.map((chunk) => (chunk < 0 ? -1 : filled[chunk]++));
    this.choices = this.readChoices();
  }

  // What can be chosen: all evaluations, the cells of the tables, and single evaluations.
  readChoices() {
    const { evaluations, cells, datasets } = this.index;
    const all = { value: "all", label: "all evaluations", evaluations: evaluations.map((_, number) => number) };
    // `html/comparison.rs` links to these values.
    const ofCells = cells.map((cell) => ({ ...cell, value: `cell ${cell.label}`, group: "cells" }));
    const single = evaluations.map(({ name }, number) => ({ value: name, label: name, group: "evaluations", evaluations: [number] }));
    const known = new Set();
    const choices = [...ofCells, all, ...single].filter(({ value }) => !known.has(value) && known.add(value));
    this.datasets = datasets;
    return choices;
  }

  choice(value) {
    return this.choices.find((choice) => choice.value === value);
  }

  verdict(evaluation, item) {
    return this.index.verdicts[this.index.evaluations[evaluation].source].charCodeAt(item) - VERDICT_ZERO;
  }

  // The evaluations of `others` that an evaluation is compared with: the one with the most axis values in common, of the same seed.
  // An evaluation without a seed is compared with one per seed.
  partners(evaluation, others) {
    const point = this.index.evaluations[evaluation].point;
    const best = new Map();
    for (const other of others) {
      const otherPoint = this.index.evaluations[other].point;
      if (point.seed !== undefined && otherPoint.seed !== undefined && point.seed !== otherPoint.seed) continue;
      const common = Object.keys(point).filter((axis) => point[axis] === otherPoint[axis]).length;
      const seed = point.seed ?? otherPoint.seed;
      if (common > (best.get(seed)?.common ?? -1)) best.set(seed, { other, common });
    }
    return [...best.values()].map(({ other }) => other);
  }

  hasTexts(item) {
    return this.places[item] >= 0;
  }

  // A chunk of texts.
  chunk(number) {
    if (!this.chunks.has(number)) this.chunks.set(number, unpack(`answers-texts-${number}`));
    return this.chunks.get(number);
  }

  // The texts of an item, or null if they are not on the page.
  async texts(item) {
    if (!this.hasTexts(item)) return null;
    if (this.last?.item === item) return this.last.texts;
    const chunk = await this.chunk(this.index.items.chunk[item]);
    const { gold, images, answers } = chunk.items[this.places[item]];
    const text = (number) => chunk.strings[number];
    const bySource = new Map();
    for (let at = 0; at < answers.length; at += ANSWER_WIDTH) {
      const [source, prompt, thinking, response, answer, score] = answers.slice(at, at + ANSWER_WIDTH);
      bySource.set(source, {
        prompt: text(prompt),
        thinking: text(thinking),
        response: text(response),
        answer: answer < 0 ? null : text(answer),
        score: score / 1000,
      });
    }
    const texts = { gold: gold.map(text), images, bySource };
    this.last = { item, texts };
    return texts;
  }

  answer(texts, evaluation) {
    return texts.bySource.get(this.index.evaluations[evaluation].source);
  }

  // The data URL of an image, or null if it is not on the page.
  async image(number) {
    const chunk = this.index.images[number] ?? -1;
    if (chunk < 0) return null;
    if (!this.imageChunks.has(chunk)) {
      this.imageChunks.set(chunk, unpack(`answers-images-${chunk}`).then((pairs) => new Map(pairs)));
    }
    return (await this.imageChunks.get(chunk)).get(number) ?? null;
  }
}
