// Shows what the agent says of itself, and asks again by itself.
//
// What came over the network goes into the page as text and never as markup. Asking and drawing take
// a tenth of the time at most, however many connections there are.
"use strict";

const PAUSE_MS = 2000;
const LONGEST_PAUSE_MS = 30000;
const PATIENCE_MS = 10000;
const SHARE = 10;
const MOST_SHOWN = 100;

const byId = (id) => document.getElementById(id);

// What was known when the agent answered last.
let known = { since: null, refusals: [], older: 0, newest: null, bytes: new Map(), moment: 0 };
let failures = 0;
let timer = null;
let isAsking = false;
let isPaused = false;

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  // 503 is how /ready says that a workload is not.
  if (!answer.ok && answer.status !== 503) {
    throw new Error(`${path} got ${answer.status}`);
  }
  return { body: await answer.json(), headers: answer.headers };
}

async function askRefusals() {
  const path = known.newest === null ? "/refusals" : `/refusals?after=${known.newest}`;
  const answer = await ask(path);
  if (known.newest !== null && answer.headers.get("sealwire-since") !== known.since) {
    // Another agent's numbers: all of its refusals are new.
    return ask("/refusals");
  }
  return answer;
}

async function update() {
  const began = performance.now();
  const [ready, connections, refusals] = await Promise.all([
    ask("/ready"),
    ask("/connections"),
    askRefusals(),
  ]);
  remember(refusals);
  showTrouble(ready.body);
  showWorkloads(ready.body.workloads);
  showRefusals();
  showConnections(connections);
  showStatus(ready.body);
  byId("moment").textContent = `as of ${new Date().toLocaleTimeString()}`;
  return performance.now() - began;
}

function remember({ body, headers }) {
  const since = headers.get("sealwire-since");
  const omitted = Number(headers.get("sealwire-omitted")) || 0;
  const before = since === known.since ? known.refusals : [];
  const all = body.concat(before);
  known.older = (since === known.since ? known.older : 0) + omitted;
  known.older += Math.max(0, all.length - MOST_SHOWN);
  known.refusals = all.slice(0, MOST_SHOWN);
  known.newest = known.refusals.length > 0 ? known.refusals[0].id : null;
  known.since = since;
}

function showStatus({ ready, workloads }) {
  const away = workloads.filter((it) => !it.ready).length;
  const refused = known.older + known.refusals.length;
  const parts = [];
  if (workloads.length === 0) {
    parts.push("The agent is starting.");
  } else if (ready) {
    parts.push(workloads.length === 1 ? "The workload is ready." : `All ${workloads.length} workloads are ready.`);
  } else {
    parts.push(`${away} of ${workloads.length} workloads can't be served.`);
  }
  parts.push(refused === 0 ? "Nothing was refused." : `${count(refused, "connection")} refused.`);
  setStatus(parts.join(" "), !ready);
}

function setStatus(text, isBad) {
  const status = byId("status");
  put(status, text);
  status.classList.toggle("is-bad", isBad);
}

function showTrouble({ configuration, coordinator, unsaved }) {
  const lines = [];
  if (configuration.refused) {
    lines.push(`The configuration as it is written is not in force: ${configuration.refused}`);
  }
  if (coordinator) {
    lines.push(`Coordinator, for ${coordinator.trouble_seconds} s: ${coordinator.why}`);
  }
  if (unsaved) {
    lines.push(`Not on the disk: ${unsaved}`);
  }
  keep(byId("trouble"), lines, (line) => line, () => document.createElement("li"), put);
}

function showWorkloads(workloads) {
  const shown = workloads.slice(0, MOST_SHOWN);
  keep(byId("workloads"), shown, (it) => it.name, card, (item, it) => {
    fill(item, it.name, it.ready ? "ready" : `not ready: ${it.why}`, [
      ["identity", it.identity],
      ["certificate", it.certificate_not_after && expiry(it.certificate_not_after)],
      ["warning", it.warning],
    ]);
    item.classList.toggle("good", it.ready);
    item.classList.toggle("bad", !it.ready);
  });
}

function showRefusals() {
  const { refusals, older } = known;
  put(byId("refusals-note"), refusals.length === 0 ? "None since the agent started." :
    `${count(refusals.length, "refusal")}, newest first${older > 0 ? `; ${older} before` : ""}. Open one to see what it means.`);
  keep(byId("refusals"), refusals, (it) => it.id, refusalEntry, (entry, it) => {
    const [id, code, route, moment] = entry.firstElementChild.children;
    put(id, it.id);
    put(code, it.code);
    put(route, `${it.workload} ${it.direction}: ${it.from ?? "?"} → ${it.to ?? "?"}`);
    put(moment, it.at ? new Date(it.at).toLocaleTimeString() : "");
    facts(entry.lastElementChild, [
      ["detail", it.detail],
      ["it means", it.means],
      ["to do", it.to_do],
      ["rule", it.rule],
      ["more", it.docs],
      ["in a shell", `sealwire explain ${it.id}`],
    ]);
  });
}

function refusalEntry() {
  const entry = document.createElement("details");
  const summary = document.createElement("summary");
  for (const name of ["id", "code", "route", "moment"]) {
    const part = document.createElement("span");
    part.className = name;
    summary.append(part);
  }
  entry.append(summary, document.createElement("dl"));
  return entry;
}

function showConnections({ body, headers }) {
  const now = performance.now();
  const seconds = (now - known.moment) / 1000;
  const bytes = new Map();
  const peers = new Map();
  for (const it of body) {
    bytes.set(it.id, [it.sent, it.received]);
    const before = known.bytes.get(it.id) ?? [0, 0];
    const rate = (total, earlier) => (known.moment > 0 ? Math.max(0, total - earlier) / seconds : 0);
    it.up = rate(it.sent, before[0]);
    it.down = rate(it.received, before[1]);
    addToPeer(peers, it);
  }
  known.bytes = bytes;
  known.moment = now;
  const omitted = Number(headers.get("sealwire-omitted")) || 0;
  showPeers([...peers.values()]);
  const busiest = body.sort((a, b) => b.up + b.down - a.up - a.down || b.id - a.id).slice(0, MOST_SHOWN);
  const total = body.length + omitted;
  put(byId("connections-note"), total > busiest.length ?
    `The ${busiest.length} busiest of ${total}.` : total === 0 ? "None is open." : `${total} open, busiest first.`);
  keep(byId("connections"), busiest, (it) => String(it.id), card, (item, it) => {
    fill(item, `${it.from} → ${it.to}`, `${it.workload} ${it.direction}, ${it.state}`, [
      ["id", String(it.id)],
      ["peer", it.peer],
      ["mode", it.mode],
      ["rule", it.rule],
      ["datapath", it.datapath && `${it.datapath}: ${it.datapath_why}`],
      ["rate", `${rateText(it.up)} sent, ${rateText(it.down)} received`],
      ["so far", `${size(it.sent)} sent, ${size(it.received)} received`],
      ["age", age(it.age_ms / 1000)],
    ]);
  });
}

function addToPeer(peers, it) {
  const name = it.peer ?? (it.mode === "plaintext" ? "in clear" : "not known, or without a certificate");
  let peer = peers.get(name);
  if (!peer) {
    peer = { name, connections: 0, up: 0, down: 0, workloads: new Set(), datapaths: new Map() };
    peers.set(name, peer);
  }
  peer.connections += 1;
  peer.up += it.up;
  peer.down += it.down;
  peer.workloads.add(it.workload);
  const datapath = it.datapath ?? "handshaking";
  peer.datapaths.set(datapath, (peer.datapaths.get(datapath) ?? 0) + 1);
}

function showPeers(peers) {
  peers.sort((a, b) => b.connections - a.connections || (a.name < b.name ? -1 : 1));
  const shown = peers.slice(0, MOST_SHOWN);
  put(byId("peers-note"), peers.length > shown.length ? `The ${shown.length} with most connections of ${peers.length}.` :
    peers.length === 0 ? "Nobody is connected." : "");
  keep(byId("peers"), shown, (it) => it.name, card, (item, it) => {
    fill(item, it.name, count(it.connections, "connection"), [
      ["with", few([...it.workloads])],
      ["rate", `${rateText(it.up)} sent, ${rateText(it.down)} received`],
      ["datapath", few([...it.datapaths].map(([name, number]) => `${name} ${number}`))],
    ]);
  });
}

// A list item with a title, a line of state and facts.
function card() {
  const item = document.createElement("li");
  const state = document.createElement("p");
  state.className = "state";
  item.append(document.createElement("h3"), state, document.createElement("dl"));
  return item;
}

function fill(item, title, state, list) {
  const [heading, line, more] = item.children;
  put(heading, title);
  put(line, state);
  facts(more, list);
}

// Terms with what is known of them; what is not is left out.
function facts(parent, list) {
  const known = list.filter(([, value]) => value);
  keep(parent, known, ([term]) => term, () => {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    return pair;
  }, (pair, [term, value]) => {
    put(pair.firstElementChild, term);
    put(pair.lastElementChild, value);
  });
}

// Lets `parent` have one child for each item. Children that are there stay the same elements, so that
// what is open or has the focus stays so.
function keep(parent, items, key, make, fillIn) {
  const there = new Map();
  for (const child of parent.children) {
    there.set(child.dataset.key, child);
  }
  const wanted = new Set(items.map(key));
  for (const [name, child] of there) {
    if (!wanted.has(name)) {
      child.remove();
    }
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = there.get(name);
    if (!child) {
      child = make();
      child.dataset.key = name;
    }
    fillIn(child, item);
    if (child === place) {
      place = place.nextElementSibling;
    } else {
      parent.insertBefore(child, place);
    }
  }
}

// Text that is the same is left alone: a screen reader would read it again.
function put(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

function count(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

function few(list) {
  const shown = list.slice(0, 5).join(", ");
  return list.length > 5 ? `${shown} and ${list.length - 5} more` : shown;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

function rateText(bytes) {
  return `${size(bytes)}/s`;
}

function age(seconds) {
  if (seconds < 60) {
    return `${Math.round(seconds)} s`;
  }
  if (seconds < 3600) {
    return `${Math.round(seconds / 60)} min`;
  }
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

function expiry(moment) {
  const left = (new Date(moment) - Date.now()) / 1000;
  return left > 0 ? `expires in ${age(left)}, at ${moment}` : `expired at ${moment}`;
}

async function turn() {
  let pause;
  timer = null;
  isAsking = true;
  try {
    pause = Math.max(PAUSE_MS, (await update()) * SHARE);
    failures = 0;
  } catch (error) {
    failures += 1;
    pause = Math.min(PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS);
    setStatus(`The agent does not answer (${error.message}). Asking again every ${Math.round(pause / 1000)} s; what is below is old.`, true);
  }
  isAsking = false;
  schedule(pause);
}

// Nobody looks at a page that is hidden.
function schedule(pause) {
  if (timer === null && !isAsking && !isPaused && !document.hidden) {
    timer = setTimeout(turn, pause);
  }
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  clearTimeout(timer);
  timer = null;
  schedule(0);
});
document.addEventListener("visibilitychange", () => schedule(0));
schedule(0);
