// graphile-worker 0.18 on Node: the verbs and events of common.py, which says what each does.
//
// - With a concurrency: what its performance page measures with. `localQueue` of 500 jobs, which one
//   claim locks and fetches, and completions written in batches, without waiting for more
//   (`completeJobBatchDelay` and `failJobBatchDelay` 0). The next claim begins when the local queue
//   is empty. `getQueueNameBatchDelay` concerns only named queues, whose jobs run one by one: unused.
// - Without one (pickup): its defaults, which are one job at a time and no batches.
// - As in its own benchmark, a pool of one connection more than the concurrency, of which few are
//   opened, and `NO_LOG_SUCCESS`: it would print a line for each job.
// - A job is deleted when it completes: there is no history, and no result is kept. A completion
//   deletes by the id alone: it doesn't check who holds the job.
// - Bulk: `addJobs`, with a `jobKey` a row; returns the rows.
//
// The environment variable `ROOST_BENCH_MODULES` names the folder with `node_modules`.

import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

process.env.NO_LOG_SUCCESS = "1";
const modules = createRequire(path.join(process.env.ROOST_BENCH_MODULES, "here.js"));
const { Logger, makeWorkerUtils, run, runMigrations } = await import(
  pathToFileURL(modules.resolve("graphile-worker")).href
);

const BATCH = 1_000;
const LATER = 45_000;

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const now = () => Number(process.hrtime.bigint()); // the clock of Python's time.monotonic_ns
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
// Its messages go to stderr: stdout is for events.
const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(`${level}: ${message}`);
});

class Tally {
  constructor(jobs, stamps, burn) {
    Object.assign(this, { jobs, stamps, burn, count: 0, delays: [] });
  }

  noop() {
    if (!this.count) say({ first: now() });
    if (this.burn) {
      const began = process.cpuUsage();
      let used;
      do {
        used = process.cpuUsage(began);
      } while (used.user + used.system < this.burn);
    }
    this.count += 1;
    if (this.count % BATCH === 0 || this.count === this.jobs) say({ count: this.count });
  }

  stamp(sent) {
    this.delays.push((now() - sent) / 1e6);
    if (this.delays.length === this.stamps) say({ delays: this.delays });
  }
}

const stopped = () =>
  new Promise((resolve) => {
    process.stdin.on("end", resolve);
    process.stdin.resume();
  });

async function withClient(options, body) {
  const utils = await makeWorkerUtils({ connectionString: options.dsn, logger });
  try {
    await body(utils);
  } finally {
    await utils.release();
  }
}

const bulkOf = (utils, first, count, { keys, later }) =>
  utils.addJobs(
    Array.from({ length: count }, (_, n) => ({
      identifier: "noop",
      payload: { i: first + n },
      jobKey: keys ? `key-${first + n}` : undefined,
      runAt: later ? new Date(Date.now() + LATER) : undefined,
    })),
  );

async function inBatches(utils, rows, { keys, later }) {
  for (let at = 0; at < rows; at += BATCH) {
    await bulkOf(utils, at, Math.min(BATCH, rows - at), { keys, later });
  }
}

const verbs = {
  async setup({ dsn }) {
    await runMigrations({ connectionString: dsn, logger });
  },

  fill: (options) =>
    withClient(options, (utils) => inBatches(utils, options.jobs, { keys: false, later: false })),

  async work({ dsn, concurrency, jobs = 0, stamps = 0, burn = 0 }) {
    const tally = new Tally(jobs, stamps, burn);
    const worker = { connectionString: dsn };
    if (concurrency) {
      Object.assign(worker, {
        concurrentJobs: concurrency,
        maxPoolSize: concurrency + 1,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      });
    }
    const runner = await run({
      preset: { worker },
      logger,
      noHandleSignals: true,
      parsedCronItems: [],
      taskList: {
        noop: async () => tally.noop(),
        stamp: async ({ t }) => tally.stamp(t),
        nap: ({ ms }) => sleep(ms),
      },
    });
    await stopped();
    await runner.stop();
  },

  enqueue: (options) =>
    withClient(options, async (utils) => {
      const times = [];
      for (let number = -100; number < options.jobs; number += 1) {
        const started = now();
        await utils.addJob("noop", { i: number });
        if (number >= 0) times.push((now() - started) / 1e6);
      }
      say({ times });
    }),

  bulk: (options) =>
    withClient(options, async (utils) => {
      const settings = { keys: true, later: options.later ?? false };
      await bulkOf(utils, -BATCH, BATCH, settings);
      const started = now();
      await inBatches(utils, options.rows, settings);
      say({ seconds: (now() - started) / 1e9 });
    }),

  produce: (options) =>
    withClient(options, async (utils) => {
      for (let number = 0; number < options.jobs; number += 1) {
        await sleep(1e3 * options.every * (0.5 + Math.random()));
        await utils.addJob("stamp", { i: number, t: now() });
      }
    }),
};

const [verb, options] = process.argv.slice(2);
await verbs[verb](JSON.parse(options));
