// The interface of Standard Schema (zod, valibot, arktype …), as far as this package uses it. Types only.

/** A schema of a library that implements Standard Schema, version 1. */
export interface Schema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => Validation<Output> | Promise<Validation<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

type Validation<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: ReadonlyArray<Issue> };

interface Issue {
  readonly message: string;
  readonly path?: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined;
}

/** What a schema accepts. */
export type InputOf<S> = S extends Schema<infer Input, unknown> ? Input : never;

/** What a schema makes of it. */
export type OutputOf<S> = S extends Schema<infer _Input, infer Output> ? Output : never;

/** The first issue of a value as a path and a text. `undefined` if the value is valid. */
export async function validate<Output>(
  schema: Schema<unknown, Output>,
  value: unknown,
  name: string,
): Promise<{ value: Output } | { path: string; problem: string }> {
  const checked = await schema["~standard"].validate(value);
  if (!checked.issues) return { value: checked.value };
  const issue = checked.issues[0]!;
  const path = (issue.path ?? []).map((part) => (typeof part === "object" ? part.key : part));
  const shown = path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  return { path: `${name}${shown}`, problem: issue.message };
}
