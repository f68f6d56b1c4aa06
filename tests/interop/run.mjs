//! Random histories of opor and the genuine cr-sqlite together: both directions, both clock modes, equal at the end.
//
// `OPOR_SEED` repeats one seed. The last line is `N passed, N failed`; the exit code says the same.

import { Genuine } from './genuine.mjs';
import { Peer, output, stringify } from './peer.mjs';

/** Mulberry32: small, seeded, the same everywhere. */
function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return { below: (bound) => Math.floor(next() * bound), chance: (percent) => next() * 100 < percent };
}

const shapes = output('statements', '0', '0').filter((line) => line.schema);

async function create(replica) {
  for (const { schema, table } of shapes) {
    await replica.query(schema);
    await replica.query(`SELECT crsql_as_crr('${table}')`);
  }
}

/** Runs a statement that may break a constraint; anything else that fails is a failure of the test. */
async function attempt(replica, sql) {
  try {
    await replica.query(sql);
    return true;
  } catch (error) {
    if (/constraint failed/.test(error.message)) return false;
    throw new Error(`${sql}: ${error.message}`);
  }
}

function difference(left, right) {
  const only = (some, others, mark) => some.filter((line) => !others.includes(line)).map((line) => `  ${mark} ${line}`);
  return [...only(left, right, '-'), ...only(right, left, '+')].join('\n');
}

/** Tables and log, as far as replicas must agree. A sentinel of causal length 1 beside columns is not sent on. */
async function content(replica) {
  const lines = [];
  for (const { table } of shapes) {
    const rows = await replica.query(`SELECT * FROM ${table}`);
    lines.push(...rows.map((row) => `${table} ${stringify(row)}`));
  }
  for (const { table, pk, cid, val, col_version, cl } of await replica.changes(0)) {
    const saysNothing = cid === '-1' && cl === 1 && shapes.find((shape) => shape.table === table).columns > 0;
    if (!saysNothing) lines.push(`log ${stringify({ table, pk, cid, val, col_version, cl })}`);
  }
  return lines.sort();
}

async function version(replica) {
  return (await replica.query('SELECT crsql_db_version()'))[0][0].v;
}

async function exchange(source, target, since, choose) {
  const changes = (await source.changes(since)).filter(choose);
  if (changes.length > 0) await target.apply(changes, choose(changes[0]));
}

async function converge(replicas) {
  for (let round = 0; round < 12; round += 1) {
    const before = await Promise.all(replicas.map(version));
    for (const target of replicas) {
      for (const source of replicas) {
        if (source !== target) await target.apply(await source.changes(0), round % 2 === 0);
      }
    }
    const after = await Promise.all(replicas.map(version));
    if (after.every((value, index) => value === before[index])) return;
  }
  throw new Error('replicas keep telling each other news');
}

async function history(seed, clock) {
  const dice = random(seed);
  const replicas = [new Genuine(), new Peer(clock, 'b0'.repeat(16)), new Peer(clock, 'b1'.repeat(16))];
  if (dice.chance(50)) replicas.push(new Genuine());
  try {
    for (const replica of replicas) await create(replica);
    for (const { sql } of output('statements', String(seed), '150').filter((line) => line.sql)) {
      const replica = replicas[dice.below(replicas.length)];
      if (dice.chance(80)) {
        await attempt(replica, sql);
        continue;
      }
      const source = replicas[dice.below(replicas.length)];
      const percent = dice.chance(50) ? 100 : 40;
      if (source !== replica) await exchange(source, replica, 0, () => dice.chance(percent));
    }
    await converge(replicas);
    const expected = await content(replicas[0]);
    for (const [index, replica] of replicas.entries()) {
      const lines = await content(replica);
      const different = difference(expected, lines);
      if (different !== '') throw new Error(`replica 0 (-) and ${index} (+) differ\n${different}`);
    }
    if (expected.length === 0) throw new Error('the history left nothing to compare');
  } finally {
    for (const replica of replicas) replica.close();
  }
}

/**
 * A log without what is not the model's to say: sites, and the versions the genuine one takes for transactions that
 * record nothing. What remains of a version is its rank.
 */
function comparable(changes) {
  const versions = [...new Set(changes.map((change) => change.db_version))].sort((a, b) => a - b);
  const rank = (change) => stringify({ ...change, site_id: null, db_version: versions.indexOf(change.db_version) });
  return changes.map(rank).sort();
}

/** The model the suite trusts against the genuine one: the same statements, the same log. */
async function model(seed) {
  const genuine = new Genuine();
  try {
    let last = [];
    for (const step of output('trace', String(seed), '120')) {
      if (step.schema) {
        genuine.query(step.schema);
        genuine.query(`SELECT crsql_as_crr('${step.table}')`);
      } else if (step.sql) {
        last = step.sql === 'BEGIN' ? [] : [...last, step.sql];
        if ((await attempt(genuine, step.sql)) !== step.ok) throw new Error(`${step.sql}: expected ok ${step.ok}`);
      } else if (step.apply) {
        last.push(stringify(step.apply));
        genuine.insert(step.apply);
      } else {
        const different = difference(comparable(step.changes), comparable(genuine.changes(0)));
        if (different !== '') throw new Error(`model (-) and genuine (+) differ after\n${last.join('\n')}\n${different}`);
      }
    }
  } finally {
    genuine.close();
  }
}

const asked = process.env.OPOR_SEED;
const seeds = asked === undefined ? Array.from({ length: 10 }, (_, index) => index + 1) : [Number(asked)];
const kinds = [
  ['model', model],
  ['lamport', (seed) => history(seed, 'lamport')],
  ['hlc', (seed) => history(seed, 'hlc')],
].filter(([name]) => (process.env.OPOR_INTEROP ?? name) === name);
let passed = 0;
let failed = 0;
for (const [name, test] of kinds) {
  for (const seed of seeds) {
    try {
      await test(seed);
      passed += 1;
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}, seed ${seed}: ${error.message}`);
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
