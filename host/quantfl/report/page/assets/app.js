// The live page. The server says everything once ("all") and then what has changed; names are never taken for HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const ROW = 36; // px, as in style.css
const state = { run: {}, rounds: [], boards: new Map(), log: [], traffic: null, axis: "round", open: null, revision: 0 };
const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
const headers = token ? { Authorization: "Bearer " + token } : {};
let order = [], painted = 0, due = false;

const number = (n, digits) => n === undefined || n === null ? "" : n.toLocaleString("en", digits === undefined ? {}
  : { minimumFractionDigits: digits, maximumFractionDigits: digits });
const size = (n) => n < 10000 ? number(n) + " B" : number(n / 1024, 1) + " KiB";

function element(tag, text, attributes) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
  return e;
}
const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, text) {
  const e = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}

// ---- events
async function connect() {
  let query = "";
  try { // an EventSource sends no headers: the token is in this one URL, and only where reading needs it
    if (token && (await fetch("/traffic", { method: "HEAD" })).status === 401) query = "?token=" + encodeURIComponent(token);
  } catch {
    line("away", "the server is away; trying again");
    setTimeout(connect, 1500);
    return;
  }
  const source = new EventSource("/events" + query);
  source.addEventListener("all", (e) => {
    Object.assign(state, { rounds: [], log: [], boards: new Map() });
    take(JSON.parse(e.data));
  });
  source.addEventListener("change", (e) => take(JSON.parse(e.data)));
  source.onopen = () => line("live", "live");
  source.onerror = () => {
    line("away", state.run.ended ? "the run has ended" : "the server is away; trying again");
    if (source.readyState === EventSource.CLOSED) { setTimeout(connect, 1500); }
  };
}
function line(kind, text) {
  $("dot").className = kind;
  $("linetext").textContent = text;
}
function take(change) {
  state.revision = change.revision;
  if (change.run) state.run = change.run;
  state.rounds.push(...change.rounds);
  for (const b of change.boards) state.boards.set(b.name, b);
  state.log.push(...change.log);
  if (state.log.length > 2000) state.log.splice(0, state.log.length - 2000);
  soon();
}
function soon() { // at most ten paints a second
  if (due) return;
  due = true;
  setTimeout(() => requestAnimationFrame(() => { due = false; painted = performance.now(); paint(); }),
    Math.max(0, 100 - (performance.now() - painted)));
}

// ---- painting
function paint() {
  const run = state.run, last = state.rounds[state.rounds.length - 1];
  document.title = (run.name || "quantfl") + (last && last.accuracy !== undefined ? ` ${number(100 * last.accuracy, 1)} %` : "");
  $("title").textContent = run.name || "quantfl";
  const text = run.stopping ? "stopping" : run.paused ? "paused; " + run.phase : run.phase;
  if ($("phase").textContent !== text) $("phase").textContent = text || "";
  const share = run.rounds_asked && last ? Math.min(100, 100 * last.round / run.rounds_asked) : 0;
  $("bar").setAttribute("aria-valuenow", Math.round(share));
  $("bar").firstElementChild.style.width = share + "%";
  $("controls").hidden = !(run.controllable && token) || run.ended;
  $("pause").textContent = run.paused ? "Resume" : "Pause";
  if (!$("overview").hidden) overview(last);
  if (!$("fleet").hidden) fleet();
  if (!$("log").hidden) log();
}
function facts(at, pairs) {
  $(at).replaceChildren(...pairs.map(([k, v]) => {
    const d = element("div");
    d.append(element("dt", k), element("dd", v));
    return d;
  }));
}
function overview(last) {
  const scored = state.rounds.filter((r) => r.accuracy !== undefined), now = scored[scored.length - 1];
  let up = 0, down = 0, bad = 0;
  for (const b of state.boards.values()) { up += b.up; down += b.down; bad += b.state === "failed" || b.state === "refused"; }
  facts("facts", [
    ["round", last ? `${last.round} of ${state.run.rounds_asked}` : "–"],
    ["accuracy", now ? number(now.accuracy, 4) : "–"],
    ["accuracy before", scored.length ? number(scored[0].accuracy, 4) : "–"],
    ["boards", number(state.boards.size)],
    ["of these failing", number(bad)],
    ["bytes up, sum", size(last ? Math.max(last.up_bytes, up) : up)],
    ["bytes down, sum", size(last ? Math.max(last.down_bytes, down) : down)],
  ]);
  curve("accuracy", scored.map((r) => [x(r), r.accuracy]), 4);
  curve("loss", scored.filter((r) => r.loss !== undefined).map((r) => [x(r), r.loss]), 3);
  $("rounds").replaceChildren(...state.rounds.slice(-12).reverse().map((r) => {
    const tr = element("tr");
    const cells = [r.round, number(r.accuracy, 4), number(r.loss, 4), r.boards, r.failed || "", number(r.up_bytes + r.down_bytes), number(r.seconds, 1)];
    cells.forEach((c, i) => tr.append(i ? element("td", c) : element("th", c, { scope: "row" })));
    return tr;
  }));
}
const x = (r) => state.axis === "round" ? r.round : r.up_bytes + r.down_bytes;

function curve(id, points, digits, dots) {
  const svg = $(id), [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number), left = 52, bottom = h - 24;
  const caption = svg.parentElement.querySelector("figcaption").textContent;
  if (!points.length) { svg.replaceChildren(shape("text", { x: left, y: h / 2 }, "no round yet")); svg.setAttribute("aria-label", caption + ": no round yet"); return; }
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  const px = (v) => left + (w - left - 14) * (x1 > x0 ? (v - x0) / (x1 - x0) : 0.5);
  const py = (v) => bottom - (bottom - 12) * (y1 > y0 ? (v - y0) / (y1 - y0) : 0.5);
  const parts = [shape("path", { class: "axis", d: `M${left} 8V${bottom}H${w - 10}`, fill: "none" })];
  for (const y of y1 > y0 ? [y0, (y0 + y1) / 2, y1] : [y0]) parts.push(shape("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, number(y, y1 >= 100 ? 0 : 2)));
  const tick = (v) => state.axis === "round" || dots ? number(v) : size(v);
  parts.push(shape("text", { x: px(x0), y: h - 6 }, tick(x0)));
  if (x1 > x0) parts.push(shape("text", { x: px(x1), y: h - 6, "text-anchor": "end" }, tick(x1)));
  parts.push(shape("path", { class: "curve", d: points.map((p, i) => (i ? "L" : "M") + px(p[0]).toFixed(1) + " " + py(p[1]).toFixed(1)).join("") }));
  const [lx, ly] = points[points.length - 1];
  parts.push(shape("circle", { class: "point", cx: px(lx), cy: py(ly), r: 4 }));
  svg.replaceChildren(...parts);
  svg.setAttribute("aria-label", `${caption}: from ${number(ys[0], digits)} to ${number(ly, digits)}, between ${number(y0, digits)} and ${number(y1, digits)}`);
}

// ---- the fleet, rows in view only
const KEYS = { name: (b) => b.name, state: (b) => b.state || "", samples: (b) => -(b.samples || 0), loss: (b) => -(b.loss || 0),
  bytes: (b) => -(b.up + b.down), missed: (b) => -(b.missed || 0) };
function fleet() {
  const find = $("find").value.trim().toLowerCase(), key = KEYS[$("order").value];
  order = [...state.boards.values()].filter((b) => !find || b.name.toLowerCase().includes(find) || (b.state || "").includes(find));
  order.sort((a, b) => { const p = key(a), q = key(b); return p < q ? -1 : p > q ? 1 : a.name < b.name ? -1 : 1; });
  $("count").textContent = find ? `${number(order.length)} of ${number(state.boards.size)} boards` : `${number(order.length)} boards`;
  $("table").setAttribute("aria-rowcount", order.length + 1);
  rows();
  if (state.open) board();
}
function rows() {
  const view = $("rows"), from = Math.max(0, Math.floor(view.scrollTop / ROW) - 4), to = Math.min(order.length, from + Math.ceil(view.clientHeight / ROW) + 8);
  const space = $("space"), held = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.board : undefined;
  space.style.height = order.length * ROW + "px";
  space.replaceChildren(...order.slice(from, to).map((b, i) => {
    const row = element("div", undefined, { role: "row", "aria-rowindex": from + i + 2 });
    row.style.top = (from + i) * ROW + "px";
    const name = element("span", undefined, { role: "cell" }), button = element("button", b.name, { type: "button" });
    button.dataset.board = b.name;
    name.append(button);
    const look = b.excluded || b.state === "failed" || b.state === "refused" ? "bad" : b.state === "done" || b.state === "ready" ? "good" : "";
    row.append(name, element("span", b.excluded ? "excluded" : b.state || "", { role: "cell", class: look, title: b.reason || "" }));
    for (const c of [number(b.samples), number(b.loss, 3), size(b.up), size(b.down), number(b.seconds, 2), number(b.missed || 0)]) row.append(element("span", c, { role: "cell", class: "n" }));
    return row;
  }));
  if (held) { const again = [...space.querySelectorAll("button")].find((e) => e.dataset.board === held); if (again) again.focus({ preventScroll: true }); }
}
function board() {
  const b = state.boards.get(state.open);
  $("board").hidden = !b;
  if (!b) return;
  $("boardname").textContent = b.name;
  const mine = state.traffic && state.traffic.boards[b.name], all = (way) => mine ? mine[way].reduce((a, c) => a + c, 0) : 0;
  const again = mine ? mine.up[state.traffic.categories.indexOf("retransmission")] + mine.down[state.traffic.categories.indexOf("retransmission")] : 0;
  facts("boardfacts", [
    ["state", b.excluded ? "excluded" : b.state || "–"], ["last error", b.reason || "none"], ["samples", number(b.samples) || "–"],
    ["rounds contributed", number(b.rounds || 0)], ["rounds missed", number(b.missed || 0)], ["bytes of its last delta", number(b.delta_bytes) || "–"],
    ["seconds for its last round", number(b.seconds, 2) || "–"],
    ["bytes not repeated", mine && all("up") + all("down") ? number(100 * (1 - again / (all("up") + all("down"))), 1) + " %" : "–"],
    ...(b.battery_percent !== undefined ? [["battery", b.battery_percent + " %"]] : []), ...(b.signal_dbm !== undefined ? [["signal", b.signal_dbm + " dBm"]] : []),
    ...(b.counters ? [["traffic counters", b.counters]] : []),
  ]);
  $("exclude").hidden = !(state.run.controllable && token) || state.run.ended;
  $("exclude").textContent = b.excluded ? "Include again" : "Exclude";
  curve("boardloss", (b.past || []).filter((p) => typeof p[1] === "number").map((p) => [p[0], p[1]]), 3, true);
  $("boardbytes").replaceChildren(...(mine ? state.traffic.categories : []).map((p, i) => {
    const tr = element("tr");
    tr.append(element("th", p, { scope: "row" }), element("td", number(mine.up[i])), element("td", number(mine.down[i])));
    return tr;
  }));
}
async function traffic() {
  try {
    const answer = await fetch("/traffic", { headers });
    if (answer.ok) state.traffic = await answer.json();
  } catch { return; }
  if (!$("ledger").hidden) ledger();
  if (state.open && !$("fleet").hidden) board();
}
function ledger() {
  const t = state.traffic, used = t.categories.map((p, i) => i).filter((i) => Object.values(t.boards).some((b) => b.up[i] || b.down[i]));
  const sum = (a) => a.reduce((p, c) => p + c, 0);
  const names = Object.keys(t.boards).sort((a, b) => sum(t.boards[b].up) + sum(t.boards[b].down) - sum(t.boards[a].up) - sum(t.boards[a].down));
  $("ledgerhint").textContent = names.length > 200 ? `The 200 links with the most bytes of ${number(names.length)}; all are in \`quantfl ledger\`.`
    : names.length ? "Links with the most bytes first." : "The ledger is written after the first round.";
  $("ledgerhead").replaceChildren(...["link", "direction", ...used.map((i) => t.categories[i]), "total"].map((c) => element("th", c, { scope: "col" })));
  $("ledgerrows").replaceChildren(...names.slice(0, 200).flatMap((name) => ["up", "down"].map((way) => {
    const tr = element("tr"), v = t.boards[name][way];
    tr.append(element("th", name, { scope: "row" }), element("td", way), ...used.map((i) => element("td", number(v[i]))), element("td", number(sum(v))));
    return tr;
  })));
}
function log() {
  const kinds = new Set([...$("kinds").querySelectorAll("input:checked")].map((i) => i.value));
  const shown = state.log.filter((e) => kinds.has(e.kind)).slice(-300).reverse();
  $("nolog").hidden = shown.length > 0;
  $("entries").replaceChildren(...shown.map((e) => {
    const li = element("li"), at = new Date(1000 * e.time);
    li.append(element("time", at.toLocaleTimeString(), { datetime: at.toISOString() }), element("b", e.kind, { class: e.kind === "note" ? "" : "bad" }), document.createTextNode(e.text));
    return li;
  }));
}

// ---- what people do
const TABS = ["overview", "fleet", "ledger", "log"];
function show(name) {
  for (const t of TABS) {
    $(t).hidden = t !== name;
    $("tab-" + t).setAttribute("aria-selected", t === name);
    $("tab-" + t).tabIndex = t === name ? 0 : -1;
  }
  if (name === "ledger") traffic();
  paint();
}
TABS.forEach((t, i) => {
  $("tab-" + t).addEventListener("click", () => show(t));
  $("tab-" + t).addEventListener("keydown", (e) => {
    const to = { ArrowRight: (i + 1) % 4, ArrowLeft: (i + 3) % 4, Home: 0, End: 3 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    show(TABS[to]);
    $("tab-" + TABS[to]).focus();
  });
});
async function steer(what, name) {
  const rest = name === undefined ? "" : "?board=" + encodeURIComponent(name);
  try {
    const answer = await fetch("/control/" + what + rest, { method: "POST", headers });
    if (!answer.ok) line("away", (await answer.json()).error);
  } catch { line("away", "the server is away; trying again"); }
}
$("pause").addEventListener("click", () => steer(state.run.paused ? "resume" : "pause"));
$("stop").addEventListener("click", () => { if (confirm("End the run? Complete rounds are kept.")) steer("stop"); });
$("exclude").addEventListener("click", () => steer(state.boards.get(state.open).excluded ? "include" : "exclude", state.open));
$("find").addEventListener("input", () => fleet());
$("order").addEventListener("change", () => fleet());
$("rows").addEventListener("scroll", () => requestAnimationFrame(rows));
$("space").addEventListener("click", (e) => {
  const name = e.target.dataset.board;
  if (name === undefined) return;
  state.open = name;
  traffic();
  board();
  $("boardname").focus();
});
$("close").addEventListener("click", () => {
  const back = state.open;
  state.open = null;
  $("board").hidden = true;
  const button = [...$("space").querySelectorAll("button")].find((b) => b.dataset.board === back);
  (button || $("rows")).focus();
});
$("kinds").addEventListener("change", () => log());
document.querySelectorAll("input[name=axis]").forEach((i) => i.addEventListener("change", () => { state.axis = i.value; paint(); }));
setInterval(() => { if (!$("ledger").hidden || state.open) traffic(); }, 2000);
connect();
