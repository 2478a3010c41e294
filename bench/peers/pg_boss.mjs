// pg-boss: jobs in PostgreSQL, policy key_strict_fifo with the key as singletonKey. Fetched and completed here, one
// after the other: its own `work` pauses between two fetches.

import { PgBoss } from "pg-boss";
import { CONCURRENCY, connection, decide, main } from "./job.mjs";

const QUEUE = "decide";
const PAUSE_MS = 5;

const boss = new PgBoss({ ...connection, max: CONCURRENCY + 2, supervise: false, schedule: false });
boss.on("error", (fault) => console.error(String(fault)));
await boss.start();

async function consume() {
  for (;;) {
    const [job] = await boss.fetch(QUEUE, { batchSize: 1 });
    if (job === undefined) {
      await new Promise((done) => setTimeout(done, PAUSE_MS));
      continue;
    }
    await decide(job.data.request);
    await boss.complete(QUEUE, job.id);
  }
}

await main({
  prepare: () => boss.createQueue(QUEUE, { policy: "key_strict_fifo" }),
  // One by one: jobs of one `insert` have the same time, and their order would be that of random ids.
  enqueue: async (jobs) => {
    for (const { request, key } of jobs) await boss.send(QUEUE, { request }, { singletonKey: `r${key}` });
  },
  work: () => Promise.all(Array.from({ length: CONCURRENCY }, consume)),
  close: () => boss.stop({ graceful: false }),
});
