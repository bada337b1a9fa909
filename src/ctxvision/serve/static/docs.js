// Renders openapi.json.

import "./theme.js";
import { element, request } from "./tools.js";

const main = document.getElementById("api");

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return [schema.enum?.map((value) => JSON.stringify(value)).join(", "), schema.const, schema.format, schema.type].find(Boolean) ?? "anything";
}

const code = (text) => element("code", {}, text);
const row = (...cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));

function table(heads, rows) {
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows));
}

function operation(path, verb, about) {
  const section = element("section", {}, element("h2", {}, element("span", { class: "verb" }, verb.toUpperCase()), " ", code(path)),
    element("p", {}, about.summary ?? ""));
  const fields = (about.parameters ?? []).map((one) => row(code(one.name), one.in, typeOf(one.schema), one.description ?? one.schema.description ?? ""));
  for (const [type, body] of Object.entries(about.requestBody?.content ?? {})) {
    for (const [name, schema] of Object.entries(body.schema.properties)) fields.push(row(code(name), type, typeOf(schema), (schema.items ?? schema).description ?? ""));
  }
  if (fields.length) section.append(table(["Name", "In", "What", "About"], fields));
  section.append(table(["Status", "Answer", "When"], Object.entries(about.responses).map(([status, answer]) => {
    const [type, body] = Object.entries(answer.content ?? {})[0] ?? ["", {}];
    return row(code(status), body.schema ? typeOf(body.schema) : type, answer.description);
  })));
  return section;
}

function shape(name, schema) {
  return element("section", {}, element("h2", {}, code(name)), element("p", {}, schema.description ?? ""),
    table(["Field", "What", "About"], Object.entries(schema.properties ?? {}).map(([field, one]) => row(code(field), typeOf(one), one.description ?? ""))));
}

try {
  const api = await (await request("/openapi.json")).json();
  main.replaceChildren(element("p", {}, api.info.description, " Version ", api.info.version, "."),
    ...Object.entries(api.paths).flatMap(([path, verbs]) => Object.entries(verbs).map(([verb, about]) => operation(path, verb, about))),
    ...Object.entries(api.components.schemas).map(([name, schema]) => shape(name, schema)));
} catch (error) {
  document.getElementById("status").textContent = error.message;
}
