// Keeps the page up to date: fetches it again, copies the parts that differ, and draws the rates
// between two fetches. Names are always text, never markup: the answer is parsed into a document that
// runs no scripts, and its nodes are copied.
"use strict";

const PERIOD = 2000; // milliseconds; longer where the agent takes more than a tenth of it
const POINTS = 60;
const VERDICTS = ["pass", "redirect", "tx", "drop", "aborted", "unknown"]; // from below
const SVG = "http://www.w3.org/2000/svg";

const state = document.getElementById("state");
const button = document.getElementById("live");
const format = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const history = new Map(); // of a row's id: its last totals, and rates by verdict
let timer = 0;

function morph(old, now) {
  if (old.hasAttribute("data-own")) return;
  for (const { name, value } of [...now.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!now.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  const known = new Map([...old.children].filter((each) => each.id).map((each) => [each.id, each]));
  let at = old.firstChild;
  for (const next of now.childNodes) {
    const match = next.id ? known.get(next.id) : at;
    if (!match || match.nodeName !== next.nodeName || (match.id ?? "") !== (next.id ?? "")) {
      old.insertBefore(document.importNode(next, true), at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    if (match.nodeType === Node.ELEMENT_NODE) morph(match, next);
    else if (match.data !== next.data) match.data = next.data;
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function measure() {
  const at = Number(document.querySelector("main").dataset.at);
  const rows = document.querySelectorAll("tr[data-packets]");
  for (const row of rows) {
    const totals = JSON.parse(row.dataset.packets);
    const last = history.get(row.id);
    const rates = last?.rates ?? [];
    const seconds = last ? at - last.at : 0;
    if (seconds > 0) {
      const grown = VERDICTS.map((each) => (totals[each] - last.totals[each]) / seconds);
      /* The new total is smaller: it belongs to another agent. */
      if (grown.every((each) => each >= 0)) rates.push(grown);
      else rates.length = 0;
      rates.splice(0, rates.length - POINTS);
    }
    history.set(row.id, { at, totals, rates });
    show(row, rates);
  }
  const there = new Set([...rows].map((row) => row.id));
  for (const id of history.keys()) if (!there.has(id)) history.delete(id);
}

function show(row, rates) {
  const now = rates.at(-1);
  VERDICTS.forEach((verdict, index) => {
    const cell = row.querySelector(`td.number[data-label="${verdict}"]`);
    cell.querySelector("b").textContent = now ? `${brief(now[index])}/s` : "";
  });
  const cell = row.querySelector(".chart");
  if (!cell.firstChild) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 32`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    for (const verdict of VERDICTS) {
      svg.append(document.createElementNS(SVG, "path"));
      svg.lastChild.setAttribute("class", verdict);
    }
    const legend = document.createElement("p");
    legend.setAttribute("aria-hidden", "true");
    legend.append(document.createElement("span"), document.createElement("span"));
    cell.append(svg, legend);
  }
  const sums = rates.map((each) => each.reduce((sum, rate) => sum + rate, 0));
  const most = Math.max(0, ...sums);
  const [svg, legend] = cell.children;
  const floor = sums.map(() => 0);
  VERDICTS.forEach((_, index) => {
    const edge = (heights) =>
      heights.map((sum, n) => `${POINTS - rates.length + n},${(32 - (30 * sum) / (most || 1)).toFixed(2)}`);
    const below = edge(floor).reverse();
    rates.forEach((each, n) => (floor[n] += each[index]));
    const drawn = most > 0 && rates.length > 1 && rates.some((each) => each[index] > 0);
    svg.children[index].setAttribute("d", drawn ? `M${[...edge(floor), ...below].join("L")}Z` : "");
  });
  const words = [`${brief(sums.at(-1) ?? 0)}/s`, `highest ${brief(most)}/s`];
  svg.setAttribute("aria-label", `recent packets: now ${words.join(", ")}`);
  [...legend.children].forEach((each, n) => (each.textContent = words[n]));
}

function brief(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(2)} M`;
  return number > 0 && number < 10 ? number.toFixed(1) : format.format(number);
}

function say(text) {
  if (state.textContent !== text) state.textContent = text; // which reads it out: only if it is new
}

async function update() {
  const began = performance.now();
  try {
    const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
    if (!answer.ok) throw new Error(`answered ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    morph(document.querySelector("main"), page.querySelector("main"));
    measure();
    say("live");
  } catch (error) {
    say(`no news: ${error instanceof TypeError ? "the agent does not answer" : error.message}`);
  }
  if (timer) timer = setTimeout(update, Math.max(PERIOD, 10 * (performance.now() - began)));
}

function run(live) {
  clearTimeout(timer);
  timer = live && !document.hidden ? setTimeout(update, PERIOD) : 0;
}

function paused() {
  return button.textContent === "Resume";
}

button.addEventListener("click", () => {
  button.textContent = paused() ? "Pause" : "Resume";
  say(paused() ? "paused" : "live");
  run(!paused());
});
document.addEventListener("visibilitychange", () => run(!paused()));
document.documentElement.classList.add("scripted");
button.hidden = false;
say("live");
measure();
run(true);
