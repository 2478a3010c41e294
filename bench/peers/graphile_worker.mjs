// graphile-worker: jobs in PostgreSQL, with the key as the queue name, so that one at a time of each key is taken.
// No local queue: with it, jobs of one queue name run at the same time.

import { makeWorkerUtils, run } from "graphile-worker";
import { CONCURRENCY, decide, main, pool } from "./job.mjs";

const CHUNK = 1000;
const utils = process.argv[2] === "work" ? null : await makeWorkerUtils({ pgPool: pool });

await main({
  prepare: () => utils.migrate(),
  enqueue: async (jobs) => {
    for (let at = 0; at < jobs.length; at += CHUNK) {
      await utils.addJobs(
        jobs.slice(at, at + CHUNK).map(({ request, key }) => ({
          identifier: "decide",
          payload: { request },
          queueName: `r${key}`,
          maxAttempts: 1,
        })),
      );
    }
  },
  work: async () => {
    const runner = await run({
      pgPool: pool,
      concurrency: CONCURRENCY,
      pollInterval: 500,
      noHandleSignals: true,
      taskList: { decide: ({ request }) => decide(request).then(() => undefined) },
      logger: undefined,
    });
    await runner.promise;
  },
  close: () => utils.release(),
});
