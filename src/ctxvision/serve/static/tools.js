// Elements without HTML strings, and requests with the token.

// Names of classes and files may hold what steers a line of text and is not seen: it is written out.
export const visible = (text) => text.replace(
  /[\p{Cc}\p{Cs}\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu,
  (letter) => `\\u${letter.codePointAt(0).toString(16).padStart(4, "0")}`,
);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("--")) made.style.setProperty(key, value);
    else made.setAttribute(key, value === true ? "" : key === "alt" ? visible(value) : value);
  }
  made.append(...children.filter((child) => child !== null)
    .map((child) => (typeof child === "string" ? visible(child) : child)));
  return made;
}

// The parts of a name, which may be broken behind what separates them.
export const breakable = (name) => name.split(/(?<=[_/\\.-])(?=[^_/\\.-])/)
  .flatMap((part, index) => (index ? [element("wbr"), part] : [part]));

export const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;

// with a true minus, and none before a zero
export const signed = (value, digits) => value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");

export class Problem extends Error {}

let token = null; // in memory alone
let asking = null;

function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("ask");
    const field = document.getElementById("token");
    dialog.addEventListener("close", () => {
      token = field.value.trim() || null;
      field.value = "";
      asking = null;
      resolve(token !== null);
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

// Asks the server; waits and tries again where it is busy, asks for the token where one is missing.
export async function request(path, options = {}, tries = 4) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("the server does not answer");
  }
  if (response.ok) return response;
  if (response.status === 401 && (await askForToken())) return request(path, options, tries);
  if (response.status === 429 && tries > 1) {
    await pause(Number(response.headers.get("Retry-After") ?? 1), options.signal);
    return request(path, options, tries - 1);
  }
  const answer = await response.json().catch(() => null);
  throw new Problem(answer?.message ?? `the server answered ${response.status}`);
}
