//! The engine under test as a child process that answers JSON lines; see `tests/src/bin/peer.rs`.

import { spawn, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const workspace = fileURLToPath(new URL('../..', import.meta.url));
const program = process.env.OPOR_PEER ?? `${process.env.CARGO_TARGET_DIR ?? `${workspace}target`}/debug/peer`;
if (!existsSync(program)) {
  execFileSync('cargo', ['build', '--package', 'opor-tests', '--bin', 'peer'], { cwd: workspace, stdio: 'inherit' });
}

/** JSON with 64-bit integers in `v` as BigInt. */
export function parse(line) {
  const marked = line.replace(/"v":(-?\d+)/g, '"v":"$1","big":true');
  return JSON.parse(marked, (_, value) => {
    if (value?.big !== true) return value;
    return { t: value.t, v: BigInt(value.v) };
  });
}

/** The inverse of `parse`; fields in alphabetical order, so that equal values are equal texts. */
export function stringify(value) {
  const plain = (_, item) => {
    if (typeof item === 'bigint') return `\u0001${item}`;
    if (item === null || typeof item !== 'object' || Array.isArray(item)) return item;
    return Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)));
  };
  const text = JSON.stringify(value, plain);
  return text.replace(/"\\u0001(-?\d+)"/g, '$1');
}

/** What the helper prints when it runs to its end. */
export function output(...parameters) {
  const text = execFileSync(program, parameters, { encoding: 'utf8', maxBuffer: 1 << 30 });
  return text.trim().split('\n').map(parse);
}

export class Peer {
  #child;
  #lines;

  constructor(clock, site) {
    this.site = site;
    this.#child = spawn(program, [':memory:', clock, site], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async #ask(command) {
    this.#child.stdin.write(`${stringify(command)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('the helper is gone');
    const answer = parse(value);
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  async query(sql) {
    return (await this.#ask({ sql })).rows;
  }

  async changes(since) {
    return (await this.#ask({ since })).changes;
  }

  /** Merges changes: through the typed API, or row by row through `crsql_changes`. */
  async apply(changes, typed = true) {
    return this.#ask(typed ? { apply: changes } : { insert: changes });
  }

  close() {
    this.#child.stdin.end();
  }
}
