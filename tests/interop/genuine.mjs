//! The genuine cr-sqlite in this process: the WebAssembly build browsers run, one database in memory.
//
// Values are the typed JSON of the golden recordings: {t: 'null'}, {t: 'int', v: 1n}, {t: 'real', bits: '3ff0..'},
// {t: 'text', v: ''}, {t: 'blob', hex: ''}. Integers are BigInt, because a Number cannot hold all 64 bits.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const packageFolder = path.dirname(createRequire(import.meta.url).resolve('@vlcn.io/wa-sqlite/package.json'));
const dist = path.join(packageFolder, 'dist');
const { default: createModule } = await import(pathToFileURL(path.join(dist, 'crsqlite-sync.mjs')));
const wasmBinary = readFileSync(path.join(dist, 'crsqlite-sync.wasm'));
const wasm = await createModule({ wasmBinary, locateFile: (file) => file });

const ROW = 100;
const DONE = 101;
const OPEN_READWRITE_CREATE = 6;
const INTEGER = 1;
const FLOAT = 2;
const TEXT = 3;
const BLOB = 4;
const scratch = wasm._malloc(16);
const releaseCopy = wasm._getSqliteFree();

function copyIn(bytes) {
  const at = wasm._sqlite3_malloc(bytes.length + 1);
  wasm.HEAPU8.set(bytes, at);
  wasm.HEAPU8[at + bytes.length] = 0;
  return at;
}

function bits(number) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, number);
  return view.getBigUint64(0).toString(16).padStart(16, '0');
}

function fromBits(hex) {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(`0x${hex}`));
  return view.getFloat64(0);
}

export class Genuine {
  #db;

  constructor() {
    const name = copyIn(Buffer.from(':memory:'));
    const code = wasm._sqlite3_open_v2(name, scratch, OPEN_READWRITE_CREATE, 0);
    wasm._sqlite3_free(name);
    if (code !== 0) throw new Error(`the genuine one does not open: ${code}`);
    this.#db = wasm.getValue(scratch, '*');
    this.site = this.query('SELECT crsql_site_id()')[0][0].hex;
  }

  #check(code, accepted) {
    if (code !== accepted) throw new Error(wasm.UTF8ToString(wasm._sqlite3_errmsg(this.#db)));
  }

  /** Runs one statement with bound values; gives its rows. */
  query(sql, values = []) {
    const text = copyIn(Buffer.from(sql));
    const code = wasm._sqlite3_prepare_v2(this.#db, text, -1, scratch, 0);
    wasm._sqlite3_free(text);
    this.#check(code, 0);
    const statement = wasm.getValue(scratch, '*');
    try {
      values.forEach((value, index) => this.#check(bind(statement, index + 1, value), 0));
      const rows = [];
      let state = wasm._sqlite3_step(statement);
      for (; state === ROW; state = wasm._sqlite3_step(statement)) rows.push(readRow(statement));
      this.#check(state, DONE);
      return rows;
    } finally {
      wasm._sqlite3_finalize(statement);
    }
  }

  /** The change log after a version, as objects. */
  changes(since) {
    const rows = this.query(
      `SELECT "table", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes
       WHERE db_version > ? ORDER BY db_version, seq`,
      [{ t: 'int', v: BigInt(since) }],
    );
    return rows.map(([table, pk, cid, val, colVersion, dbVersion, site, cl, seq]) => ({
      table: table.v,
      pk: pk.hex,
      cid: cid.v,
      val,
      col_version: Number(colVersion.v),
      db_version: Number(dbVersion.v),
      site_id: site.hex ?? null,
      cl: Number(cl.v),
      seq: Number(seq.v),
    }));
  }

  /** Merges changes in one transaction. */
  apply(changes) {
    this.query('BEGIN');
    changes.forEach((change) => this.insert(change));
    this.query('COMMIT');
  }

  /** Merges one change. */
  insert(change) {
    this.query(
      `INSERT INTO crsql_changes ("table", pk, cid, val, col_version, db_version, site_id, cl, seq)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      [
        { t: 'text', v: change.table },
        { t: 'blob', hex: change.pk },
        { t: 'text', v: change.cid },
        change.val,
        { t: 'int', v: BigInt(change.col_version) },
        { t: 'int', v: BigInt(change.db_version) },
        { t: 'blob', hex: change.site_id },
        { t: 'int', v: BigInt(change.cl) },
        { t: 'int', v: BigInt(change.seq) },
      ],
    );
  }

  close() {
    this.query('SELECT crsql_finalize()');
    wasm._sqlite3_close(this.#db);
  }
}

function bind(statement, index, value) {
  switch (value.t) {
    case 'null':
      return wasm._sqlite3_bind_null(statement, index);
    case 'int': {
      const low = Number(BigInt.asIntN(32, value.v));
      return wasm._sqlite3_bind_int64(statement, index, low, Number(BigInt.asIntN(32, value.v >> 32n)));
    }
    case 'real':
      return wasm._sqlite3_bind_double(statement, index, fromBits(value.bits));
    case 'text': {
      const bytes = Buffer.from(value.v);
      return wasm._sqlite3_bind_text(statement, index, copyIn(bytes), bytes.length, releaseCopy);
    }
    case 'blob': {
      const bytes = Buffer.from(value.hex, 'hex');
      return wasm._sqlite3_bind_blob(statement, index, copyIn(bytes), bytes.length, releaseCopy);
    }
    default:
      throw new Error(`there is no type ${value.t}`);
  }
}

function readRow(statement) {
  const row = [];
  for (let column = 0; column < wasm._sqlite3_column_count(statement); column += 1) row.push(readColumn(statement, column));
  return row;
}

function readColumn(statement, column) {
  const bytes = (at) => {
    const length = wasm._sqlite3_column_bytes(statement, column);
    return Buffer.from(wasm.HEAPU8.subarray(at, at + length));
  };
  switch (wasm._sqlite3_column_type(statement, column)) {
    case INTEGER: {
      const low = wasm._sqlite3_column_int64(statement, column);
      const high = wasm.getTempRet0();
      return { t: 'int', v: BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt.asUintN(32, BigInt(low))) };
    }
    case FLOAT:
      return { t: 'real', bits: bits(wasm._sqlite3_column_double(statement, column)) };
    case TEXT:
      return { t: 'text', v: bytes(wasm._sqlite3_column_text(statement, column)).toString() };
    case BLOB:
      return { t: 'blob', hex: bytes(wasm._sqlite3_column_blob(statement, column)).toString('hex') };
    default:
      return { t: 'null' };
  }
}
