"use strict";
(() => {
const byId = id => document.getElementById(id);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const live = document.documentElement.dataset.live === "yes";
let data = JSON.parse(byId("data").textContent);
const kept = JSON.parse(byId("details").textContent);
const COLOURS = 8, DASHES = [[], [9, 5], [2, 4], [12, 4, 2, 4]];
const title = document.title;
const chosen = {off: new Set(), filters: {}};

// --- small things

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, of] of Object.entries(value)) made.style.setProperty(name, of);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
}
function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
const colourOf = arm => css(arm === null ? "--quiet" : `--c${arm % COLOURS}`);
const armName = arm => arm === null ? "needed by others" : data.arms[arm].label;
const runName = run => `${armName(run.arm)}, seed ${run.seed}`;
function shown(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(digits)));
}
function swatch(arm) {
  return el("span", {class: `swatch d${Math.floor((arm ?? 0) / COLOURS) % 4}`, style: {"--c": arm === null ? "var(--quiet)" : `var(--c${arm % COLOURS})`}, "aria-hidden": "true"});
}
function keyed(key) {
  const [split, ...rest] = key.split("/");
  return `${rest.join(" ").replaceAll("_", " ")}${key.startsWith("train/similarity") ? " to the guide, mean over layer pairs" : ""} (${split === "train" ? "training" : split})`;
}
const named = key => key.replace(/\._target_$/, "");
const DARK = "screen and (prefers-color-scheme: dark)";
const dark = () => matchMedia(DARK).matches;
function fill(select, options, value) {
  select.replaceChildren(...options.map(([of, text]) => el("option", {value: of, selected: of === value}, text)));
}

// --- curves

function chart(box, series, {xlabel, ylabel, log, bounds, said}) {
  box.replaceChildren();
  const steps = [...new Set(series.flatMap(one => one.steps))].sort((a, b) => a - b);
  if (!steps.length) { box.append(el("p", {class: "quiet"}, "Nothing to draw yet.")); return null; }
  const place = new Map(steps.map((step, i) => [step, i]));
  const columns = [steps], options = [{}], bands = [];
  const spread = (one, values) => {
    const column = new Array(steps.length).fill(undefined);
    one.steps.forEach((step, i) => { const y = values[i]; column[place.get(step)] = log && !(y > 0) ? null : y; });
    return column;
  };
  for (const one of series) {
    columns.push(spread(one, one.values));
    options.push({label: one.label, stroke: one.colour, width: 2, dash: one.dash, spanGaps: true, points: {show: one.steps.length < 3, size: 7}});
    if (one.low) {
      columns.push(spread(one, one.high), spread(one, one.low));
      const quiet = {stroke: "transparent", width: 0, spanGaps: true, points: {show: false}};
      options.push({...quiet, label: "high"}, {...quiet, label: "low"});
      bands.push({series: [columns.length - 2, columns.length - 1], fill: one.colour + "20"});
    }
  }
  const axis = {stroke: css("--quiet"), grid: {stroke: css("--line"), width: 1}, ticks: {stroke: css("--line"), width: 1}, font: "12px system-ui", labelFont: "12px system-ui", labelSize: 18};
  const range = (u, low, high) => {
    if (!(low < high)) { const pad = Math.abs(low) * 0.05 || 0.5; low -= pad; high += pad; }
    const pad = 0.04 * (high - low);
    low -= pad; high += pad;
    if (bounds) { if (bounds[0] !== null) low = Math.max(low, bounds[0]); if (bounds[1] !== null) high = Math.min(high, bounds[1]); }
    return low < high ? [low, high] : [low - 0.5, high + 0.5];
  };
  const width = () => Math.max(240, box.clientWidth);
  const height = () => Math.max(240, Math.min(420, Math.round(width() * 0.5)));
  const plot = new uPlot({
    width: width(), height: height(), legend: {show: false}, series: options, bands,
    cursor: {drag: {x: true, y: false, setScale: true}, points: {show: true, size: 7}},
    scales: {x: {time: false}, y: log ? {distr: 3} : {range}},
    axes: [{...axis, label: xlabel, size: 38}, {...axis, label: ylabel, size: width() < 480 ? 46 : 56}],
    hooks: {setCursor: [u => said && said(u.cursor.idx, u)]},
  }, columns, box);
  const watch = new ResizeObserver(() => { if (box.isConnected && Math.abs(width() - plot.width) > 1) plot.setSize({width: width(), height: height()}); });
  watch.observe(box);
  box.onkeydown = event => {
    const by = {ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity}[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const at = Math.max(0, Math.min(steps.length - 1, (plot.cursor.idx ?? (by > 0 ? -1 : steps.length)) + by));
    plot.setCursor({left: plot.valToPos(steps[at], "x"), top: 20});
    said && said(at, plot);
  };
  return plot;
}

function band(curve, kind, bounds) {
  if (kind === "none") return {};
  const half = curve.std.map((std, i) => curve.n[i] < 2 ? 0 : kind === "std" ? std : data.t[curve.n[i]] * std / Math.sqrt(curve.n[i]));
  if (!half.some(one => one > 0)) return {};
  const clip = value => Math.min(bounds[1] ?? Infinity, Math.max(bounds[0] ?? -Infinity, value));
  return {low: curve.mean.map((mean, i) => clip(mean - half[i])), high: curve.mean.map((mean, i) => clip(mean + half[i]))};
}

function curves() {
  if (!byId("curve-chart")) return;
  const keys = Object.keys(data.curves).filter(key => data.curves[key].some(curve => curve.steps.length));
  const first = keys.find(key => key.startsWith("validation/") && key.endsWith("/" + data.metric.split("/")[1])) ?? keys[0];
  if (!keys.includes(chosen.key)) chosen.key = first;
  const order = ["validation/" + data.metric.split("/")[1], "train/similarity"];
  keys.sort((a, b) => (order.indexOf(a) + 99) % 99 - (order.indexOf(b) + 99) % 99 || (a < b ? -1 : 1));
  fill(byId("curve-key"), keys.map(key => [key, keyed(key)]), chosen.key);
  byId("curve-band").value = chosen.band ?? "interval";
  byId("curve-log").checked = Boolean(chosen.log);
  const box = byId("curve-arms"), outputs = [];
  box.replaceChildren(box.querySelector("legend"), ...data.arms.flatMap((arm, i) => {
    if (keys.every(key => !data.curves[key][i].steps.length)) return [];
    const output = outputs[i] = el("output", {});
    const input = el("input", {type: "checkbox", checked: !chosen.off.has(arm.label), onchange: event => {
      event.target.checked ? chosen.off.delete(arm.label) : chosen.off.add(arm.label);
      draw();
    }});
    return el("label", {}, input, swatch(i), arm.label, output);
  }));
  const all = on => { data.arms.forEach(arm => on ? chosen.off.delete(arm.label) : chosen.off.add(arm.label)); box.querySelectorAll("input").forEach(input => { input.checked = on; }); draw(); };
  byId("curve-all").onclick = () => all(true);
  byId("curve-none").onclick = () => all(false);
  byId("curve-key").onchange = event => { chosen.key = event.target.value; draw(); };
  byId("curve-band").onchange = event => { chosen.band = event.target.value; draw(); };
  byId("curve-log").onchange = event => { chosen.log = event.target.checked; draw(); };
  function draw() {
    const found = data.curves[chosen.key], bounds = data.bounds[chosen.key] ?? [null, null];
    const series = found.map((curve, arm) => ({curve, arm})).filter(({curve, arm}) => curve.steps.length && !chosen.off.has(data.arms[arm].label)).map(({curve, arm}) => ({
      label: data.arms[arm].label, arm, steps: curve.steps, values: curve.mean, colour: colourOf(arm), dash: DASHES[Math.floor(arm / COLOURS) % 4],
      ...band(curve, chosen.band ?? "interval", bounds),
    }));
    const said = (idx, u) => {
      outputs.forEach(output => { output.textContent = ""; });
      if (idx === null || idx === undefined) { byId("curve-said").textContent = text; return; }
      const step = u.data[0][idx];
      for (const one of series) {
        const at = one.steps.indexOf(step);
        if (at >= 0) outputs[one.arm].textContent = shown(one.values[at]);
      }
      byId("curve-said").textContent = `Step ${step}: ` + series.filter(one => one.steps.includes(step)).map(one => `${one.label} ${shown(one.values[one.steps.indexOf(step)])}`).join("; ");
    };
    const unit = data.unit && chosen.key.split("/")[1] === data.metric.split("/")[1] ? ` (${data.unit})` : "";
    const lower = data.better === "lower is better" || chosen.key.endsWith("/loss");
    const direction = chosen.key.endsWith("/loss") ? "lower is better" : chosen.key.split("/")[1] === data.metric.split("/")[1] ? data.better : "";
    const counts = [...new Set(series.flatMap(one => found[one.arm].n))].sort((a, b) => a - b);
    const n = counts.length ? `, over n = ${counts.length > 1 ? counts[0] + " to " + counts.at(-1) : counts[0]} runs` : "";
    const text = `Mean${n}; ${{interval: "band: 95 % t interval of the mean, clipped to what is possible", std: "band: standard deviation, clipped to what is possible", none: "no band"}[chosen.band ?? "interval"]}${direction ? "; " + direction : ""}. Arrow keys read values; drag to enlarge, double click to go back.`;
    chart(byId("curve-chart"), series, {xlabel: "step", ylabel: keyed(chosen.key) + unit, log: chosen.log, bounds, said});
    byId("curve-said").textContent = text;
    byId("curve-chart").setAttribute("aria-label", `Learning curves of ${keyed(chosen.key)}. At the last step: ` + series.map(one => `${one.label} ${shown(one.values.at(-1))}`).join("; "));
    numbers(series, found);
  }
  function numbers(series, found) {
    const steps = [...new Set(series.flatMap(one => one.steps))].sort((a, b) => a - b);
    const some = steps.length <= 25 ? steps : Array.from({length: 25}, (_, i) => steps[Math.round(i * (steps.length - 1) / 24)]);
    const head = el("tr", {}, el("th", {scope: "col"}, "step"), series.map(one => el("th", {scope: "col", class: "number"}, one.label)));
    const rows = some.map(step => el("tr", {}, el("th", {scope: "row"}, String(step)), series.map(one => {
      const at = one.steps.indexOf(step);
      return el("td", {class: "number"}, at < 0 ? "-" : shown(one.values[at]));
    })));
    const table = el("table", {}, el("caption", {}, `${keyed(chosen.key)}, mean over runs`), el("thead", {}, head), el("tbody", {}, rows));
    byId("curve-numbers").querySelector("div").replaceChildren(el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Learning curves as a table"}, table));
  }
  draw();
}

// --- layer pairs

const RAMP = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];
function ramp(share) {
  const x = Math.max(0, Math.min(1, share)) * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(x)), t = x - i;
  return RAMP[i].map((c, k) => Math.round(c + t * (RAMP[i + 1][k] - c)));
}
const coloured = share => `rgb(${ramp(share).join(",")})`;

function heat(one, onstep, onread) {
  const {names, steps, values} = one.pairs;
  const canvas = el("canvas", {width: steps.length, height: names.length, role: "img", "aria-label": `Heat map of ${one.label}: similarity of ${names.length} layer pairs over ${steps.length} recorded steps; at the last step from ${shown(Math.min(...last(values)), 2)} to ${shown(Math.max(...last(values)), 2)}`});
  canvas.style.height = Math.max(140, Math.min(420, names.length * 20)) + "px";
  const pen = canvas.getContext("2d"), image = pen.createImageData(steps.length, names.length);
  values.forEach((row, i) => row.forEach((value, j) => image.data.set(value === null ? [128, 128, 128, 60] : [...ramp(value), 255], 4 * (i * steps.length + j))));
  pen.putImageData(image, 0, 0);
  const now = el("div", {class: "now"}), frame = el("div", {class: "frame"}, canvas, now);
  const at = event => {
    const box = canvas.getBoundingClientRect();
    const j = Math.floor((event.clientX - box.left) / box.width * steps.length), i = Math.floor((event.clientY - box.top) / box.height * names.length);
    return [Math.max(0, Math.min(names.length - 1, i)), Math.max(0, Math.min(steps.length - 1, j))];
  };
  canvas.addEventListener("pointermove", event => { const [i, j] = at(event); onread(`${one.label}, pair ${names[i]}: ${shown(values[i][j], 3)} at step ${steps[j]}`); });
  canvas.addEventListener("click", event => onstep(steps[at(event)[1]]));
  const box = el("div", {class: "heat"}, el("h4", {}, one.label), frame, el("div", {class: "ends"}, el("span", {}, `step ${steps[0]}`), el("span", {}, `input (top) to output (bottom)`), el("span", {}, `step ${steps.at(-1)}`)));
  return {box, show: step => { now.style.left = `${100 * (nearest(steps, step) + 0.5) / steps.length}%`; }};
}
const last = values => values.map(row => row.at(-1)).filter(value => value !== null);
const nearest = (steps, step) => steps.reduce((best, one, i) => Math.abs(one - step) < Math.abs(steps[best] - step) ? i : best, 0);

function pairsView(box, ones) {
  const steps = [...new Set(ones.flatMap(one => one.pairs.steps))].sort((a, b) => a - b);
  const read = el("p", {class: "said", role: "status"}, "");
  const heats = ones.map(one => heat(one, step => { slider.value = nearest(steps, step); show(); }, text => { read.textContent = text; }));
  const slider = el("input", {type: "range", min: 0, max: steps.length - 1, value: steps.length - 1, step: 1, "aria-label": "step", oninput: () => show()});
  const label = el("output", {});
  let timer = null;
  const play = el("button", {type: "button", class: "plain", onclick: () => {
    if (timer) { clearInterval(timer); timer = null; play.textContent = "Play"; return; }
    if (+slider.value >= steps.length - 1) slider.value = 0;
    play.textContent = "Stop";
    timer = setInterval(() => {
      if (!box.isConnected || +slider.value >= steps.length - 1) { clearInterval(timer); timer = null; play.textContent = "Play"; return; }
      slider.value = +slider.value + 1;
      show();
    }, Math.max(40, 5000 / steps.length));
  }}, "Play");
  const bars = el("div", {class: "bars"});
  function show() {
    const step = steps[+slider.value];
    label.textContent = `step ${step}`;
    slider.setAttribute("aria-valuetext", `step ${step}`);
    heats.forEach(one => one.show(step));
    const names = ones[0].pairs.names;
    bars.replaceChildren(...names.flatMap((name, i) => {
      const found = ones.map(one => one.pairs.values[i]?.[nearest(one.pairs.steps, step)] ?? null);
      const strips = found.map((value, k) => el("span", {class: "bar", style: {width: `${100 * Math.max(0, value ?? 0)}%`, top: `${ones.length > 1 ? 50 * k : 15}%`, height: ones.length > 1 ? "46%" : "70%", background: ones.length > 1 ? ones[k].bar : coloured(value ?? 0)}}));
      return [el("span", {class: "name", title: name}, name), el("span", {class: "track", "aria-hidden": "true"}, strips), el("span", {class: "value"}, found.map(value => value === null ? "-" : value.toFixed(2)).join(" | "))];
    }));
  }
  const keys = ones.length > 1 ? el("p", {class: "quiet"}, ones.flatMap((one, k) => [el("span", {class: "swatch", style: {"--c": one.bar}, "aria-hidden": "true"}), `${one.label}${k ? "" : "\u2003"}`])) : null;
  box.replaceChildren(...[
    el("div", {class: "two"}, heats.map(one => one.box)),
    el("p", {class: "quiet"}, "similarity 0 ", el("span", {class: "ramp", "aria-hidden": "true"}), " 1"),
    el("div", {class: "controls"}, play, slider, label), read, keys, bars,
  ].filter(Boolean));
  show();
}

async function details(id) {
  if (!live) return kept[id] ?? null;
  const answer = await fetch(`run/${id}.json`, {cache: "no-store"});
  return answer.ok ? answer.json() : null;
}

const pairsOf = found => Object.values(found?.pairs ?? {})[0] ?? null;
const BARS = ["var(--c0)", "var(--c1)"];

async function pairs() {
  if (!byId("pairs-view")) return;
  const guided = data.curves["train/similarity"].map((curve, arm) => curve.steps.length ? arm : -1).filter(arm => arm >= 0);
  const runs = data.runs.filter(run => guided.includes(run.arm)).slice(0, 400);
  if (!runs.length) return;
  const others = guided.filter(arm => arm !== runs[0].arm);
  if (!runs.some(run => run.id === chosen.first)) {
    const best = guided.reduce((a, b) => (data.arms[b].mean ?? -Infinity) > (data.arms[a].mean ?? -Infinity) ? b : a);
    chosen.first = (runs.find(run => run.arm === best) ?? runs[0]).id;
    const seed = runs.find(run => run.id === chosen.first).seed;
    const beside = runs.filter(run => run.arm !== best).sort((a, b) => (a.seed !== seed) - (b.seed !== seed))[0];
    chosen.second = beside ? beside.id : "";
  }
  const named = runs.map(run => [run.id, runName(run)]);
  fill(byId("pairs-first"), named, chosen.first);
  fill(byId("pairs-second"), [["", "nothing"], ...named], chosen.second);
  const draw = async () => {
    const ids = [chosen.first, ...(chosen.second ? [chosen.second] : [])];
    const ones = [];
    for (const [k, id] of ids.entries()) {
      const found = pairsOf(await details(id)), run = data.runs.find(one => one.id === id);
      if (found) ones.push({label: runName(run), pairs: found, bar: BARS[k]});
    }
    ones.length ? pairsView(byId("pairs-view"), ones) : byId("pairs-view").replaceChildren(el("p", {class: "quiet"}, "These runs' pairs are not on the page."));
  };
  byId("pairs-first").onchange = event => { chosen.first = event.target.value; draw(); };
  byId("pairs-second").onchange = event => { chosen.second = event.target.value; draw(); };
  await draw();
}

// --- the settings of a sweep

function sweep() {
  const box = byId("sweep-chart");
  if (!box) return;
  const by = byId("sweep-by");
  by.value = chosen.by ?? "validation";
  by.onchange = () => { chosen.by = by.value; draw(); };
  const short = key => key.split(".").at(-1);
  const taken = new Map();
  data.axes.forEach(axis => taken.set(short(axis.key), (taken.get(short(axis.key)) ?? 0) + 1));
  const name = axis => named(taken.get(short(axis.key)) > 1 || short(axis.key) === "_target_" ? axis.key : short(axis.key));
  const text = (axis, number) => number < 0 ? "(none)" : data.settings.values[axis.place][number];
  byId("sweep-filters").replaceChildren(...data.axes.map(axis => {
    const select = el("select", {onchange: event => { chosen.filters[axis.key] = event.target.value; draw(); }});
    const values = [...new Set(data.runs.map(run => run.own[axis.place]))].sort((a, b) => axis.numbers ? (axis.numbers[a] ?? 0) - (axis.numbers[b] ?? 0) : 0);
    fill(select, [["", "all"], ...values.slice(0, 200).map(number => [String(number), text(axis, number)])], chosen.filters[axis.key] ?? "");
    return el("label", {}, name(axis), select);
  }));
  function draw() {
    const measure = by.value;
    const runs = data.runs.filter(run => run.arm !== null && run[measure] !== null && run[measure] !== undefined).slice(0, 2000);
    const labels = [...data.axes.map(name), {validation: "validation", test: "test", train_s: "training s"}[measure]].map(label => label.length > 18 ? label.slice(0, 17) + "…" : label);
    const apart = Math.max(78, 7.5 * Math.max(...labels.map(label => label.length)) + 12), height = 320, top = 44, bottom = 30, left = 30, right = 62;
    const width = Math.max(box.clientWidth - 4, apart * data.axes.length + left + right);
    const lower = data.better === "lower is better" || measure === "train_s";
    const x = i => left + i * (width - left - right) / Math.max(1, data.axes.length);
    const scaleOf = values => {
      const low = Math.min(...values), high = Math.max(...values), log = low > 0 && high / low >= 30;
      const f = log ? Math.log : v => v;
      return {low, high, at: v => low === high ? 0.5 : (f(v) - f(low)) / (f(high) - f(low)), log};
    };
    const ups = data.axes.map(axis => {
      const numbers = [...new Set(runs.map(run => run.own[axis.place]))];
      if (axis.numbers && numbers.every(number => number >= 0)) {
        const scale = scaleOf(numbers.map(number => axis.numbers[number]));
        const marks = numbers.length <= 8 ? numbers.map(number => axis.numbers[number]) : [scale.low, scale.high];
        return {at: run => scale.at(axis.numbers[run.own[axis.place]]), marks: marks.map(value => [scale.at(value), shown(value)])};
      }
      const order = numbers.sort((a, b) => a - b), at = number => order.length < 2 ? 0.5 : order.indexOf(number) / (order.length - 1);
      return {at: run => at(run.own[axis.place]), marks: (order.length <= 14 ? order : [order[0], order.at(-1)]).map(number => [at(number), text(axis, number)])};
    });
    const out = runs.length ? scaleOf(runs.map(run => run[measure])) : {at: () => 0.5, low: 0, high: 0};
    if (runs.length) ups.push({at: run => out.at(run[measure]), marks: [[out.at(out.low), shown(out.low)], [out.at(out.high), shown(out.high)]]});
    const y = share => top + (1 - share) * (height - top - bottom), room = (width - left - right) / Math.max(1, data.axes.length);
    const shade = run => { const good = lower ? 1 - out.at(run[measure]) : out.at(run[measure]); return coloured(dark() ? 0.25 + 0.75 * good : 0.85 * (1 - good)); };
    for (const up of ups.slice(0, -1)) { // runs of one value lie beside each other, the larger above, so that none hides another
      const bundles = new Map();
      runs.forEach(run => bundles.get(up.at(run))?.push(run) ?? bundles.set(up.at(run), [run]));
      up.aside = new Map([...bundles.values()].flatMap(bundle => bundle.sort((a, b) => b[measure] - a[measure]).map((run, i) => [run, (i - (bundle.length - 1) / 2) * Math.min(3, 30 / bundle.length)])));
    }
    const lit = run => data.axes.every(axis => !chosen.filters[axis.key] || String(run.own[axis.place]) === chosen.filters[axis.key]);
    const drawing = svg("svg", {width, height, role: "group", "aria-label": "A line is a run, an axis a setting"});
    const inside = runs.filter(lit);
    for (const run of [...runs.filter(run => !lit(run)), ...inside]) {
      const on = lit(run), path = svg("path", {d: ups.map((up, i) => `${i ? "L" : "M"}${x(i).toFixed(1)},${(y(up.at(run)) + (up.aside?.get(run) ?? 0)).toFixed(1)}`).join(""), stroke: shade(run), class: on ? "" : "off"});
      const hint = svg("title");
      hint.textContent = `${runName(run)}: ${shown(run[measure])}`;
      drawing.append(on ? svg("a", {href: `#run-${run.id}`, tabindex: "-1"}, hint, path) : path);
    }
    labels.forEach((label, i) => {
      if (!ups[i]) return;
      const head = svg("text", {class: "name", x: x(i), y: 16, "text-anchor": i === 0 ? "start" : i === data.axes.length ? "end" : "middle", dx: i === 0 ? 4 - left : i === data.axes.length ? right - 6 : 0});
      head.textContent = label;
      drawing.append(svg("line", {class: "axis", x1: x(i), x2: x(i), y1: y(0), y2: y(1)}), head);
      const most = Math.max(4, Math.floor(room / 7.2) - 2);
      for (const [share, mark] of ups[i].marks) {
        const tick = svg("text", {x: x(i) + 6, y: y(share) + 4});
        tick.textContent = mark.length > most ? mark.slice(0, most - 1) + "…" : mark;
        drawing.append(tick);
      }
    });
    box.replaceChildren(drawing);
    const best = inside.length ? [...inside].sort((a, b) => lower ? a[measure] - b[measure] : b[measure] - a[measure])[0] : null;
    byId("sweep-said").replaceChildren(`${inside.length} of ${runs.length} runs with a value; the better, the ${dark() ? "lighter" : "darker"}${data.better && measure !== "train_s" ? " (" + data.better + ")" : ""}. A line is a run and leads to its page.`, ...(best ? [` ${measure === "train_s" ? "Shortest" : "Best"}: `, el("a", {href: `#run-${best.id}`}, `${runName(best)}, ${shown(best[measure])}`), ` (${data.axes.map(axis => `${name(axis)}=${text(axis, best.own[axis.place])}`).join(", ")}).`] : []));
  }
  draw();
  chosen.redraw = draw;
}

// --- the table of runs

function runs() {
  const table = byId("runs-table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, place) => {
    const cell = row.cells[place], given = cell.dataset.v ?? cell.textContent.trim();
    return given === "" || given === "-" ? null : Number.isNaN(Number(given)) ? given : Number(given);
  };
  const sort = () => {
    if (chosen.sort === undefined) return;
    const [place, sign] = chosen.sort;
    heads.forEach((head, i) => i === place ? head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
    const rows = [...body.rows].map(row => [value(row, place), row]);
    rows.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1 : typeof a === typeof b ? sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true})) : typeof a === "number" ? -1 : 1);
    body.append(...rows.map(([, row]) => row));
  };
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    chosen.sort = [place, chosen.sort?.[0] === place ? -chosen.sort[1] : 1];
    sort();
  }));
  const find = byId("runs-find"), state = byId("runs-state");
  const filter = () => {
    chosen.find = find.value; chosen.state = state.value;
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every(word => text.includes(word)) && (!state.value || row.dataset.state === state.value));
      n += !row.hidden;
    }
    const others = words.length || state.value ? data.runs.slice(body.rows.length).filter(run => (!state.value || run.state === state.value) && words.every(word => `${armName(run.arm)} ${run.seed} ${run.state} ${run.started} ${run.key} ${run.why}`.toLowerCase().includes(word))) : [];
    byId("runs-said").replaceChildren(`${n} of ${body.rows.length}`, ...(others.length ? [`, and ${others.length} that have no row, such as `, ...others.slice(0, 12).flatMap(run => [el("a", {href: `#run-${run.id}`}, run.key), " "])] : []));
  };
  find.value = chosen.find ?? ""; state.value = chosen.state ?? "";
  find.oninput = filter; state.onchange = filter;
  sort(); filter();
}

// --- the page of a run

async function runPage(id) {
  const box = byId("run"), run = data.runs.find(one => one.id === id);
  if (!run) { box.replaceChildren(el("p", {}, `There is no run ${id} on this page. `, el("a", {href: "#overview"}, "Back to the overview"))); return; }
  const found = await details(id);
  if (location.hash !== `#run-${id}`) return;
  const siblings = data.runs.filter(one => one.arm === run.arm && one.arm !== null && one.id !== id);
  const facts = [["run", run.key], ["arm", armName(run.arm)], ["seed", String(run.seed)], ["state", run.state + (run.done !== null && run.done < 1 ? `, ${Math.round(100 * run.done)} % of its steps` : "")], ["remark", run.why], ["test", run.test === null ? "" : shown(run.test)], ["validation", run.validation === null ? "" : shown(run.validation)], ["training", run.train_s ? `${shown(run.train_s)} s` : ""], ["machine", run.machine], ["code", run.commits]].filter(([, value]) => value);
  const needs = run.needs.map(need => data.runs.find(one => one.id === need)).filter(Boolean);
  const list = el("dl", {class: "facts"}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  if (needs.length) list.append(el("dt", {}, "needs"), el("dd", {}, needs.map(need => [el("a", {href: `#run-${need.id}`}, need.key), " "]).flat()));
  if (siblings.length) list.append(el("dt", {}, "other seeds"), el("dd", {}, siblings.slice(0, 40).map(one => [el("a", {href: `#run-${one.id}`}, `${one.seed}: ${one.test === null ? one.state : shown(one.test)}`), "  "]).flat()));
  const parts = [el("p", {}, el("a", {href: "#overview"}, "← Overview")), el("h2", {id: "run-title", tabindex: "-1"}, runName(run)), list];
  if (!found) parts.push(el("p", {class: "quiet"}, "Its curves, log and provenance are not on this page: its folder holds them."));
  box.replaceChildren(...parts);
  if (found) {
    const keys = Object.keys(found.series);
    if (keys.length) {
      const select = el("select", {}), area = el("div", {class: "chart", tabindex: "0", role: "img"}), said = el("figcaption", {});
      const want = `validation/${data.metric.split("/")[1]}`;
      const names = [...new Set(keys.map(key => key.split("/").slice(1).join("/")))];
      fill(select, names.map(name => [name, name.replaceAll("_", " ")]), keys.includes(want) ? data.metric.split("/")[1] : names[0]);
      const draw = () => {
        const series = ["validation", "train"].map((split, k) => ({split, k, one: found.series[`${split}/${select.value}`]})).filter(({one}) => one).map(({split, k, one}) => ({label: split === "train" ? "training" : split, steps: one[0], values: one[1].map(value => value === null ? null : value * (select.value === data.metric.split("/")[1] ? data.scale : 1)), colour: css(k ? "--c1" : "--c0"), dash: k ? [6, 4] : []}));
        const reads = series.map(one => `${one.label} ${shown(one.values.at(-1))} at step ${one.steps.at(-1)}`).join("; ");
        area.setAttribute("aria-label", `Curves of ${select.value}: ${reads}`);
        said.textContent = `${reads}. Solid: validation, dashed: training.`;
        chart(area, series, {xlabel: "step", ylabel: select.value.replaceAll("_", " ") + (data.unit && select.value === data.metric.split("/")[1] ? ` (${data.unit})` : ""), said: (idx, u) => { if (idx !== null && idx !== undefined) said.textContent = `Step ${u.data[0][idx]}: ` + series.map((one, i) => [one.label, one.values[one.steps.indexOf(u.data[0][idx])]]).filter(([, value]) => value !== undefined).map(([label, value]) => `${label} ${shown(value)}`).join("; "); }});
      };
      select.onchange = draw;
      box.append(el("h3", {}, "Curves"), el("div", {class: "controls"}, el("label", {}, "Quantity ", select)), el("figure", {}, area, said));
      draw();
    }
    for (const [name, one] of Object.entries(found.pairs)) {
      const area = el("div", {});
      box.append(el("h3", {}, Object.keys(found.pairs).length > 1 ? `Layer pairs of ${name}` : "Layer pairs"), area);
      pairsView(area, [{label: runName(run), pairs: one, bar: "var(--c0)"}]);
    }
  }
  box.append(el("h3", {}, "Settings, beside those of the other runs"), ...settings(run));
  if (found) {
    if (found.log) {
      const text = el("pre", {tabindex: "0", "aria-label": "end of the run's log"}, found.log);
      box.append(el("h3", {}, "End of its log"), text);
      text.scrollTop = text.scrollHeight;
    }
    if (found.attempts.length) {
      box.append(el("h3", {}, "Where its numbers come from"));
      const order = ["started (UTC)", "finished (UTC)", "command", "commit", "code", "machine", "packages"];
      found.attempts.forEach(attempt => box.append(el("dl", {class: "facts"}, Object.entries(attempt).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b)).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, name === "command" ? el("code", {}, value) : value)]))));
    }
    if (found.left_out.length) box.append(el("p", {class: "quiet"}, `Left out, lest the page be too large: ${found.left_out.join("; ")}.`));
  }
}

function settings(run) {
  const rows = [];
  data.settings.keys.forEach((key, place) => {
    const text = number => number < 0 ? "(none)" : data.settings.values[place][number];
    const others = new Map();
    for (const one of data.runs) if (one.id !== run.id && one.arm !== null) others.set(one.own[place], (others.get(one.own[place]) ?? 0) + 1);
    const differing = [...others].filter(([number]) => number !== run.own[place]).sort((a, b) => b[1] - a[1]);
    if (!differing.length && run.own[place] < 0) return;
    const shownOthers = differing.slice(0, 6).map(([number, n]) => `${text(number)} (${n})`).join(", ") + (differing.length > 6 ? `, and ${differing.length - 6} more` : "");
    const alone = differing.length && (run.own[place] < 0 || differing.every(([number]) => number < 0));
    rows.push([!differing.length ? 2 : alone ? 1 : 0, key, text(run.own[place]), shownOthers]);
  });
  rows.sort((a, b) => a[0] - b[0] || (a[1].startsWith("needs.") - b[1].startsWith("needs.")) || (a[1] < b[1] ? -1 : 1));
  const differ = rows.filter(row => row[0] === 0), only = rows.filter(row => row[0] === 1);
  const head = names => el("thead", {}, el("tr", {}, names.map(name => el("th", {scope: "col"}, name))));
  const scroll = (label, table) => el("div", {class: "scroll tall", tabindex: "0", role: "region", "aria-label": label}, table);
  const table = (caption, found) => scroll(caption, el("table", {class: "stacked"}, el("caption", {}, caption), head(["setting", "this run", "others (runs)"]),
    el("tbody", {}, found.map(([, key, own, others]) => el("tr", {}, el("th", {scope: "row"}, named(key)), el("td", {class: "setting", "data-name": "this run"}, own), el("td", {class: "setting", "data-name": "others"}, others))))));
  const made = [differ.length || only.length ? table(`${differ.length} settings in which it differs from another run on this page`, differ) : el("p", {class: "quiet"}, "It differs from no other run on this page but in its seed.")];
  if (only.length) made.push(el("details", {}, el("summary", {}, `${only.length} settings that it or the others do not have at all`), table("settings that are not there in both", only)));
  const same = [...Object.entries(data.settings.shared), ...rows.filter(row => row[0] === 2).map(([, key, own]) => [key, own])].sort((a, b) => a[0] < b[0] ? -1 : 1);
  if (same.length) made.push(el("details", {}, el("summary", {}, `The ${same.length} settings that all runs share`), scroll("settings that all runs share", el("table", {}, el("caption", {}, "shared settings"), head(["setting", "value"]), el("tbody", {}, same.map(([key, value]) => el("tr", {}, el("th", {scope: "row"}, named(key)), el("td", {class: "setting"}, value))))))));
  return made;
}

// --- where one is

async function route(focus) {
  const hash = location.hash, id = hash.startsWith("#run-") ? hash.slice(5) : null;
  byId("overview").hidden = byId("parts").hidden = id !== null;
  byId("run").hidden = id === null;
  if (id === null) {
    document.title = title;
    if (focus && hash.length > 1) byId(decodeURIComponent(hash.slice(1)))?.scrollIntoView();
    return;
  }
  const run = data.runs.find(one => one.id === id);
  document.title = run ? `${runName(run)} - ${title}` : title;
  await runPage(id);
  if (focus) { window.scrollTo(0, 0); byId("run-title")?.focus({preventScroll: true}); }
}

async function draw() {
  curves();
  sweep();
  runs();
  await pairs();
}

async function look() {
  const said = byId("live-said");
  try {
    const answer = await fetch(`overview.json?known=${encodeURIComponent(data.digest ?? "")}`, {cache: "no-store"});
    if (answer.status === 200) {
      const next = await answer.json();
      data = next.data;
      const focused = document.activeElement?.id, scrolled = document.querySelector(".scroll.tall")?.scrollTop ?? 0;
      const open = byId("curve-numbers")?.open;
      byId("overview").innerHTML = next.content;
      byId("states").replaceChildren(...next.states.map(([state, n]) => el("li", {class: `state ${state}`}, `${n} ${state}`)));
      byId("parts").firstElementChild.replaceChildren(...next.parts.map(([id, name]) => el("li", {}, el("a", {href: `#${id}`}, name))));
      await draw();
      if (open && byId("curve-numbers")) byId("curve-numbers").open = true;
      const tall = document.querySelector(".scroll.tall");
      if (tall) tall.scrollTop = scrolled;
      if (focused) byId(focused)?.focus({preventScroll: true});
      if (location.hash.startsWith("#run-")) { const y = window.scrollY; await route(false); window.scrollTo(0, y); }
    }
    said.textContent = `Live: as of ${new Date().toLocaleTimeString()}.`;
  } catch {
    said.textContent = "The server does not answer: this is what it said last.";
  }
}

window.addEventListener("hashchange", () => route(true));
matchMedia(DARK).addEventListener("change", async () => { await draw(); await route(false); });
let wide = innerWidth;
window.addEventListener("resize", () => { if (Math.abs(innerWidth - wide) > 40) { wide = innerWidth; chosen.redraw?.(); } });
document.addEventListener("submit", event => event.preventDefault());
draw().then(() => route(true)).then(() => { document.documentElement.dataset.ready = "yes"; });
if (live) setInterval(look, 1000 * (data.every_s ?? 5));
})();
