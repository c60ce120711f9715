// SPDX-License-Identifier: Apache-2.0
// Draws dashboards as pictures: asks a Prometheus what Grafana would ask it, and has the answers
// drawn in a headless browser. README.md says how to run it.

import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

import { build } from 'esbuild';
import puppeteer from 'puppeteer-core';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const WIDTH = 1500;

const { values: options, positionals: files } = parseArgs({
  allowPositionals: true,
  options: {
    prometheus: { type: 'string', default: 'http://127.0.0.1:9090' },
    from: { type: 'string' },
    to: { type: 'string' },
    scrape: { type: 'string', default: '5' },
    choose: { type: 'string', multiple: true, default: [] },
    mode: { type: 'string', default: 'dark' },
    browser: { type: 'string', default: '/usr/bin/chromium' },
    output: { type: 'string', default: '.' },
  },
});
const from = Number(options.from);
const to = Number(options.to);
const scrape = Number(options.scrape);
// A point for some three pixels of half the width, as Grafana has it.
const step = Math.max(scrape, Math.ceil((to - from) / 240));
const chosen = Object.fromEntries(options.choose.map((each) => each.split(/=(.*)/s).slice(0, 2)));

/** Of what is not chosen, all. */
function substituted(query) {
  const rateInterval = `${Math.max(step + scrape, 4 * scrape)}s`;
  return query
    .replaceAll('$__rate_interval', rateInterval)
    .replaceAll('$__range', `${to - from}s`)
    .replaceAll('${__from}', String(from * 1000))
    .replace(/(=~?)(\s*)"\$(\w+)(\|?)"/g, (_, operator, space, name, or) => {
      const value = chosen[name]?.replace(/[.*+?^${}()|[\]\\]/g, '\\\\$&') ??
        (name === 'cluster' ? '.*' : '.+');
      return `${operator}${space}"${operator === '=' ? chosen[name] : value}${or}"`;
    });
}

async function ask(target) {
  const parameters = new URLSearchParams({ query: substituted(target.expr) });
  if (target.instant) {
    parameters.set('time', String(to));
  } else {
    Object.entries({ start: from, end: to, step }).forEach(([key, value]) =>
      parameters.set(key, String(value))
    );
  }
  const kind = target.instant ? 'query' : 'query_range';
  const response = await fetch(`${options.prometheus}/api/v1/${kind}?${parameters}`);
  const answer = await response.json();
  if (answer.status !== 'success') {
    throw new Error(`${answer.error}\n${target.expr}`);
  }
  return answer.data.result;
}

/** What is known about a panel's queries, by panel and query. */
async function answersFor(board) {
  const answers = {};
  for (const panel of board.panels) {
    answers[panel.id] = {};
    for (const target of panel.targets ?? []) {
      answers[panel.id][target.refId] = await ask(target);
    }
  }
  return answers;
}

/** What is marked in graphs: points that follow each other are one event. */
async function eventsFor(board) {
  const events = [];
  for (const { name, iconColor, target, useValueForTime } of board.annotations.list) {
    for (const { values } of await ask(target)) {
      let last;
      for (const [at, value] of values) {
        const time = useValueForTime ? Number(value) : at * 1000;
        if (last && time <= last.end + step * 1000) {
          last.end = time;
        } else {
          last = { name, iconColor, begin: time, end: time };
          events.push(last);
        }
      }
    }
  }
  return events;
}

const bundle = await build({
  ...{ entryPoints: [path.join(HERE, 'page.jsx')], bundle: true, write: false, minify: true },
  ...{ outdir: HERE, jsx: 'automatic', define: { global: 'window', 'process.env.NODE_ENV': '"production"' } },
  loader: { '.ttf': 'dataurl', '.woff2': 'dataurl', '.svg': 'dataurl', '.png': 'dataurl' },
  ...{ logLevel: 'error' },
});
const code = (kind) => bundle.outputFiles.find((each) => each.path.endsWith(kind))?.text ?? '';
const { version } = JSON.parse(
  await readFile(path.join(HERE, 'node_modules/@grafana/ui/package.json'), 'utf8')
);

const browser = await puppeteer.launch({
  executablePath: options.browser,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
});
try {
  const html = path.join(HERE, 'node_modules', '.page.html');
  await writeFile(html, '<!doctype html><meta charset="utf-8"><div id="board"></div>');
  for (const file of files) {
    const board = JSON.parse(await readFile(file, 'utf8'));
    const page = await browser.newPage();
    page.setDefaultTimeout(600_000);
    page.on('pageerror', (error) => console.error(String(error)));
    // All of it: tables leave out the rows that are not in view.
    const height = 400 + 38 * Math.max(...board.panels.map(({ gridPos: { y, h } }) => y + h));
    await page.setViewport({ width: WIDTH + 16, height });
    await page.goto(pathToFileURL(html).href);
    await page.addStyleTag({ content: code('.css') });
    await page.addScriptTag({ content: code('.js') });
    const named = board.templating.list
      .filter((variable) => variable.type === 'query')
      .map(({ name, label }) => ({ label, value: chosen[name] ?? 'All' }));
    const answers = await answersFor(board);
    const events = await eventsFor(board);
    await page.evaluate((given) => window.draw(given), {
      ...{ board, from, to, step, version, answers, events, chosen: named },
      ...{ width: WIDTH, mode: options.mode },
    });
    await page.evaluate(() => document.fonts.ready);
    // Tables are laid out late.
    await page.waitForFunction(
      (tables) =>
        [...document.querySelectorAll('[role=grid]')].filter(
          (grid) => grid.querySelectorAll('[role=row]').length > 1
        ).length >= tables,
      {},
      board.panels.filter(
        ({ id, type, targets }) =>
          type === 'table' && targets.some(({ refId }) => answers[id][refId].length > 0)
      ).length
    );
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const output = path.join(options.output, `${path.basename(file, '.json')}.png`);
    // In one piece: another size of the page would have the tables laid out once more.
    const clip = await (await page.$('#board')).boundingBox();
    await page.screenshot({ path: output, clip, captureBeyondViewport: false });
    await page.close();
    console.log(output);
  }
} finally {
  await browser.close();
}
