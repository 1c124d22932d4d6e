// A run as it happens. The page is whole as served; this adds the events after it was made.
"use strict";

const byId = (id) => document.getElementById(id);
const live = byId("live");
const started = live.dataset.started;
let last = Number(live.dataset.after);
let first = started ? Date.parse(started) : 0;
let source = null;
let fetching = false;
const wanted = new Set();

// As the server writes figures: tidemill.bench.wording.figure.
const grouped = (digits) => {
  const [whole, fraction] = digits.replace("-", "−").split(".");
  const apart = whole.length - whole.startsWith("−") > 4 ? whole.replace(/\B(?=(\d{3})+$)/g, "\u202f") : whole;
  return fraction === undefined ? apart : `${apart}.${fraction}`;
};
const bare = (digits) => (digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits);
const round = (value) => {
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return grouped((value || 0).toFixed(0));
  const [mantissa, power] = value.toExponential(2).split("e");
  const size = Number(power);
  if (size > -4 && size < 15) return grouped(bare(value.toFixed(Math.max(0, 2 - size))));
  const raised = String(size).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  return bare(mantissa) === "1" ? `10${raised}` : `${grouped(bare(mantissa))} × 10${raised}`;
};

function showStage(data) {
  byId("stage").textContent = data.name;
  byId("count").textContent = "";
  byId("bar").value = 0;
}

function showProgress(data) {
  byId("bar").value = data.total ? Math.min(1, data.done / data.total) : 0;
  byId("count").textContent = `${round(data.done)} / ${round(data.total)} ${data.unit}`;
}

function showLog(data) {
  byId("log-section").hidden = false;
  const log = byId("log");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  log.append(`${data.text}\n`);
  if (log.childNodes.length > 400) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// A curve is one polyline in the units of its figures; only the view box knows the scale.
function curveOf(data) {
  for (const known of byId("curves").children) if (known.dataset.name === data.name) return known;
  const figure = byId("curve-form").content.firstElementChild.cloneNode(true);
  figure.dataset.name = data.name;
  figure.dataset.unit = data.unit;
  figure.querySelector("figcaption span").textContent = data.name;
  byId("curves").append(figure);
  byId("curves-section").hidden = false;
  return figure;
}

function pointsOf(line) {
  if (!line.kept) {
    const text = line.getAttribute("points").trim();
    line.kept = text ? text.split(" ").map((pair) => pair.split(",").map(Number)) : [];
  }
  return line.kept;
}

function showMetric(data) {
  const figure = curveOf(data);
  const line = figure.querySelector("polyline");
  const points = pointsOf(line);
  points.push([(Date.parse(data.t) - first) / 1000, -data.value]);
  if (points.length > 800) line.kept = points.filter((_, index) => index % 2);
  figure.dirty = data.value;
  if (!showMetric.frame) showMetric.frame = requestAnimationFrame(drawCurves);
}

function drawCurves() {
  showMetric.frame = 0;
  for (const figure of byId("curves").children) {
    if (figure.dirty === undefined) continue;
    const line = figure.querySelector("polyline");
    const xs = line.kept.map((point) => point[0]);
    const ys = line.kept.map((point) => point[1]);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const height = bottom - top || Math.abs(top) || 1;
    const from = bottom > top ? top : top - height / 2;
    line.setAttribute("points", line.kept.map((point) => point.join()).join(" "));
    figure.querySelector("svg").setAttribute("viewBox", `${left} ${from} ${right - left || 1} ${height}`);
    const [values, times] = figure.querySelectorAll(".curve-scale span");
    values.textContent = `${round(-bottom)} – ${round(-top)}`;
    times.textContent = `${round(left)} – ${round(right)} s`;
    const unit = figure.dataset.unit;
    figure.querySelector("strong").textContent = `${round(figure.dirty)} ${unit}`;
    figure.dirty = undefined;
  }
}

// Figures, reports and the end are set in type by the server: take over its page's parts, the
// state and the results always of one page, so that no run is done before its figures are there.
async function refresh(...more) {
  for (const id of ["state", "results", ...more]) wanted.add(id);
  if (fetching) return;
  fetching = true;
  while (wanted.size) {
    const parts = [...wanted];
    wanted.clear();
    try {
      const answer = await fetch(location.pathname);
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const id of parts) byId(id).replaceWith(document.importNode(page.getElementById(id), true));
      document.title = page.title;
    } catch {
      setTimeout(refresh, 2000, ...parts); // the server is away: ask again
      break;
    }
  }
  fetching = false;
}

function end() {
  source.close();
  source = null;
  document.removeEventListener("visibilitychange", listenWhileSeen);
  refresh("live");
}

const shown = {
  stage: showStage,
  progress: showProgress,
  metric: showMetric,
  log: showLog,
  measurement: () => refresh(),
  report: () => refresh(),
  trial: () => refresh(),
  end,
};

function listen() {
  source = new EventSource(`${live.dataset.events}?after=${last}`);
  for (const [kind, show] of Object.entries(shown)) {
    source.addEventListener(kind, (event) => {
      const data = JSON.parse(event.data);
      last = Number(event.lastEventId);
      first ||= Date.parse(data.t);
      show(data);
    });
  }
}

// A hidden tab gives its connection back: a browser has six for one site.
function listenWhileSeen() {
  if (document.hidden && source) { source.close(); source = null; }
  else if (!document.hidden && !source) listen();
}

document.addEventListener("visibilitychange", listenWhileSeen);
listenWhileSeen();
