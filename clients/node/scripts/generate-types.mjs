// Writes src/generated.ts from the JSON Schemas of the wire: `npm run types`. With `--check` it only compares.
import { readFileSync, writeFileSync } from "node:fs";

const SCHEMAS = ["envelope", "record", "input", "schedule", "worker"];
const target = new URL("../src/generated.ts", import.meta.url);

const load = (name) => JSON.parse(readFileSync(new URL(`../../../schemas/${name}.v1.json`, import.meta.url), "utf8"));

/** Names that TypeScript has for something else. */
const RENAMED = { Record: "JobRecord", Schedule: "ScheduleRecord" };
const renamed = (name) => RENAMED[name] ?? name;

/** The type of a schema, indented by this many levels. */
function type(schema, level) {
  if (schema === true || schema === undefined) return "unknown";
  if (schema.$ref) return renamed(schema.$ref.split("/").at(-1));
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices && !schema.properties) return union(choices.map((choice) => type(choice, level)));
  const kinds = [schema.type ?? []].flat();
  return kinds.length === 0 ? "unknown" : union(kinds.map((kind) => single(kind, schema, level)));
}

function single(kind, schema, level) {
  switch (kind) {
    case "array": {
      const item = type(schema.items, level);
      return /[ |]/.test(item) ? `Array<${item}>` : `${item}[]`;
    }
    case "object":
      return schema.properties ? object(schema, level) : `{ [name: string]: ${values(schema, level)} }`;
    case "integer":
      return "number";
    default:
      return kind; // string, number, boolean, null
  }
}

function values(schema, level) {
  const more = schema.additionalProperties;
  return more === undefined || more === true ? "unknown" : type(more, level);
}

function object(schema, level) {
  const required = new Set(schema.required ?? []);
  const indent = "  ".repeat(level + 1);
  const fields = Object.entries(schema.properties).map(([name, field]) => {
    const optional = required.has(name) ? "" : "?";
    return `${comment(field.description, indent)}${indent}${name}${optional}: ${type(field, level + 1)};\n`;
  });
  return `{\n${fields.join("")}${"  ".repeat(level)}}`;
}

const union = (types) => [...new Set(types)].join(" | ");

function comment(text, indent) {
  if (!text) return "";
  const lines = text.split("\n");
  if (lines.length === 1) return `${indent}/** ${text} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join("\n")}\n${indent} */\n`;
}

function generate() {
  const types = new Map();
  for (const name of SCHEMAS) {
    const schema = load(name);
    for (const [original, definition] of [...Object.entries(schema.$defs ?? {}), [schema.title, schema]]) {
      const title = renamed(original);
      const text = `${comment(definition.description, "")}export type ${title} = ${type(definition, 0)};\n`;
      const before = types.get(title);
      if (before !== undefined && before !== text) throw new Error(`two schemas describe ${title} differently`);
      types.set(title, text);
    }
  }
  const sorted = [...types.keys()].sort();
  const from = SCHEMAS.map((name) => `schemas/${name}.v1.json`).join(", ");
  return `// Written from ${from} by \`npm run types\`. Do not edit.\n\n${sorted.map((name) => types.get(name)).join("\n")}`;
}

const wanted = generate();
if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== wanted) {
    console.error("src/generated.ts is not what the schemas say; run `npm run types` in clients/node");
    process.exit(1);
  }
} else {
  writeFileSync(target, wanted);
}
