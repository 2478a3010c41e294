// BullMQ: several queues over Redis, each with a worker that does one job at a time.

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { CONCURRENCY, REDIS, decide, queueNumber, main } from "./job.mjs";

const CHUNK = 1000;
const connect = () => new Redis(REDIS, { maxRetriesPerRequest: null });
const connection = connect();
const names = Array.from({ length: CONCURRENCY }, (_, number) => `queue-${number}`);
const queues = process.argv[2] === "work" ? [] : names.map((name) => new Queue(name, { connection }));

await main({
  prepare: async () => {},
  enqueue: async (jobs) => {
    for (const [number, queue] of queues.entries()) {
      const own = jobs.filter(({ key }) => queueNumber(key) === number);
      for (let at = 0; at < own.length; at += CHUNK) {
        await queue.addBulk(
          own.slice(at, at + CHUNK).map(({ request }) => ({
            name: "decide",
            data: { request },
            opts: { removeOnComplete: true },
          })),
        );
      }
    }
  },
  work: async () => {
    const workers = names.map(
      (name) => new Worker(name, ({ data }) => decide(data.request).then(() => null), { connection: connect() }),
    );
    for (const worker of workers) worker.on("error", (fault) => console.error(String(fault)));
    await new Promise(() => {});
  },
  close: async () => {
    for (const queue of queues) await queue.close();
    await connection.quit();
  },
});
