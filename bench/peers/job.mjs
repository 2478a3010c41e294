// Shared parts of the Node.js peers, as in job.py: the job, the waiting requests, and the command line of such a program.

import pg from "pg";

export const DATABASE_URL = process.env.BENCH_DATABASE_URL;
export const REDIS = process.env.BENCH_REDIS_SOCKET || process.env.BENCH_REDIS_URL;
export const CONCURRENCY = Number(process.env.BENCH_CONCURRENCY);
const KEYS = Number(process.env.BENCH_KEYS || "1");

// A Unix socket stands in the query of the URL, which pg understands only from its fields.
const url = new URL(DATABASE_URL.replace("postgresql:///", "postgresql://nobody/"));
const socket = url.searchParams.get("host");
export const connection = socket
  ? { host: socket, user: url.searchParams.get("user"), database: url.pathname.slice(1) }
  : { connectionString: DATABASE_URL };

export const pool = new pg.Pool({ ...connection, max: CONCURRENCY + 1 });

// Runs the job: one statement, committed when this returns.
export const decide = (request) =>
  pool.query({ name: "decide", text: process.env.BENCH_STATEMENT, values: [request] });

export const queueNumber = (key) => key % CONCURRENCY;

async function waiting() {
  const { rows } = await pool.query("SELECT id, resource_id FROM asked WHERE status = 'processing' ORDER BY id");
  return rows.map((row) => ({ request: Number(row.id), key: row.resource_id }));
}

async function pace(rate, seconds, enqueue) {
  const began = Date.now() / 1000 + 0.5;
  const sent = [];
  for (let number = 0; number < rate * seconds; number++) {
    const planned = began + number / rate;
    await new Promise((done) => setTimeout(done, Math.max(0, (planned - Date.now() / 1000) * 1000)));
    const [request, key] = [number + 1, 1 + (number % KEYS)];
    sent.push(
      pool
        .query({ name: "ask", text: process.env.BENCH_ASK, values: [request, key, planned] })
        .then(() => enqueue([{ request, key }])),
    );
  }
  await Promise.all(sent);
}

export async function main({ prepare, enqueue, work, close }) {
  const [verb, rate, seconds] = process.argv.slice(2);
  if (verb === "work") {
    process.once("SIGTERM", () => process.exit(0));
    await work();
    return;
  }
  if (verb === "prepare") await prepare();
  else if (verb === "enqueue") await enqueue(await waiting());
  else if (verb === "pace") await pace(Number(rate), Number(seconds), enqueue);
  else throw new Error(`unknown: ${verb}`);
  await close();
  await pool.end();
  process.exit(0);
}
