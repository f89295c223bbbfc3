// What TypeScript knows: `tsc --noEmit` reads this file, and every `@ts-expect-error` has to be an error.
import { type Call, type Job, type JobOptions, Naq, type Outcome } from "@naq/client";
import { z } from "zod";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const assertType = <T extends true>(_value?: T): void => undefined;

export async function types(naq: Naq): Promise<void> {
  const resize = naq.job("./jobs/resize.js:default", {
    queue: "img",
    retries: 3,
    input: z.object({ url: z.string(), width: z.number().int().default(100) }),
    output: z.object({ path: z.string() }),
  });
  const job = await resize.enqueue({ url: "http://a" }, { id: "r-1", delay: "10m" });
  assertType<Equal<typeof job, Job<{ path: string }>>>();
  const result = await job.result({ timeout: "30s" });
  assertType<Equal<typeof result, { path: string }>>();
  // @ts-expect-error a field of the input is missing
  await resize.enqueue({ width: 3 });
  // @ts-expect-error a field of the input has another type
  await resize.enqueue({ url: 3 });

  const call = naq.command("./backup.sh", ["--all", 3, true], { timeout: "5m" });
  assertType<Equal<typeof call, Call<Outcome>>>();
  const outcome = await (await call.enqueue()).result();
  assertType<Equal<typeof outcome, Outcome>>();
  const many = await naq.enqueueMany([call, call]);
  assertType<Equal<typeof many, Array<Job<Outcome>>>>();

  const untyped = await (await naq.job("./a.js:f").enqueue([1, 2])).result();
  assertType<Equal<typeof untyped, unknown>>();

  // @ts-expect-error no such option
  naq.command("true", [], { retrys: 3 });
  // @ts-expect-error a number has no unit
  naq.command("true", [], { timeout: 5 });
  // @ts-expect-error an object is no argument of a program
  naq.command("true", [{ a: 1 }]);
  // @ts-expect-error no such strategy
  naq.command("true", [], { retryStrategy: "random" });
  const options: JobOptions = { dependsOn: [job, "other", { job, on: "failure" }] };
  naq.command("true", [], options);
}
