"use strict";

const names = data.runs.map((run) => run.name);
const colour = (run) => `var(--c${run % 6})`;
const wayOf = (way) => data.ways[way] || way;

$("title").textContent = document.title = data.title;
$("about").textContent =
  data.runs.map((run) => `${run.name}${run.steps ? `: ${whole(run.steps)} steps` : ""}`).join(" · ") +
  ` · written ${data.written}`;

/** Show a section and its link, and return it. */
function open(id) {
  const section = $(id);
  section.hidden = false;
  document.querySelector("nav").append(el("a", { href: `#${id}` }, section.querySelector("h2").textContent));
  return section;
}

/** Radio buttons for ways; `chosen` is called with the selected one, at first with ways[0]. */
function choice(place, group, ways, chosen) {
  ways.forEach((way, i) => {
    const radio = el("input", { type: "radio", name: group, checked: i === 0, change: () => chosen(way) });
    place.append(el("label", {}, radio, el("span", {}, wayOf(way))));
  });
  place.hidden = ways.length < 2;
  chosen(ways[0]);
}

function table(place, head, rows) {
  place.append(
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map(([name, ...cells]) =>
      el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))))),
  );
}

// ------------------------------------------------------------------------------------ samples and curves

const BOX = { width: 340, height: 150, left: 42, right: 8, top: 6, bottom: 20 }; // of a panel, in SVG units

/** Three to six round numbers between low and high. */
function ticks(low, high) {
  const rough = (high - low) / 3 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [5, 2, 1].map((k) => k * unit).find((s) => s <= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

/** A moving average over a thirtieth of the curve, because losses of single pictures are noisy. */
function smoothed(values) {
  const radius = Math.floor(values.length / 60);
  if (values.length < 60) return values;
  const sums = [0];
  for (const value of values) sums.push(sums.at(-1) + value);
  return values.map((_, i) => {
    const from = Math.max(0, i - radius), to = Math.min(values.length, i + radius + 1);
    return (sums[to] - sums[from]) / (to - from);
  });
}

/** The index of the last step that is not after `step`; 0 before the first. */
function upTo(steps, step) {
  let index = 0;
  while (index + 1 < steps.length && steps[index + 1] <= step) index += 1;
  return index;
}

/** A panel of curves; panel.at(step) marks a step and shows the values there. */
function panel({ title, curves }, lastStep, point) {
  const lines = curves.map((curve) => ({ ...curve, smooth: smoothed(curve.values) }));
  let low = Math.min(...lines.flatMap((line) => line.smooth)), high = Math.max(...lines.flatMap((line) => line.smooth));
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const margin = (high - low) / 20;
  [low, high] = [low - margin, high + margin];
  const wide = BOX.width - BOX.left - BOX.right, tall = BOX.height - BOX.top - BOX.bottom;
  const x = (step) => (wide * step) / lastStep, y = (value) => (tall * (high - value)) / (high - low);

  const plot = svg("svg", { x: BOX.left, y: BOX.top, width: wide, height: tall }); // clips the curves
  const axes = svg("g", { class: "axes" });
  for (const value of ticks(low, high)) {
    plot.append(svg("line", { class: "grid", x1: 0, x2: wide, y1: y(value), y2: y(value) }));
    axes.append(svg("text", { x: BOX.left - 6, y: BOX.top + y(value) + 3.5, "text-anchor": "end" }, short(value)));
  }
  for (const step of ticks(0, lastStep)) {
    const near = x(step) > wide - 16 ? "end" : x(step) < 16 ? "start" : "middle";
    const spot = { x: BOX.left + x(step), y: BOX.height - 4, "text-anchor": near };
    axes.append(svg("text", spot, whole(Math.round(step))));
  }
  const ways = [...new Set(lines.map((line) => line.way))];
  const legend = el("ul", { class: "legend" });
  for (const line of lines) {
    const dash = ["none", "5 3", "2 2"][ways.indexOf(line.way) % 3];
    const corner = (v, i) => `${x(line.steps[i]).toFixed(1)} ${y(v).toFixed(1)}`;
    const path = (values) => `M${values.map(corner).join("L")}`;
    const solid = `stroke: ${colour(line.run)}`, style = `${solid}; stroke-dasharray: ${dash}`;
    if (line.smooth !== line.values) plot.append(svg("path", { class: "raw", d: path(line.values), style: solid }));
    plot.append(svg("path", { class: "line", d: path(line.smooth), style }));
    for (const i of line.steps.length <= 20 ? line.steps.keys() : []) {
      const dot = { cx: x(line.steps[i]), cy: y(line.values[i]), r: 2.2, style: `fill: ${colour(line.run)}` };
      plot.append(svg("circle", dot));
    }
    const label = [names.length > 1 ? names[line.run] : "", line.way].filter(Boolean).join(", ");
    const swatch = svg("svg", { class: "swatch", viewBox: "0 0 18 6", "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 18, y1: 3, y2: 3, style }));
    line.shown = el("b");
    legend.append(el("li", {}, swatch, label ? `${label} ` : "", line.shown));
  }
  const cursor = svg("line", { class: "cursor", y1: 0, y2: tall });
  plot.append(cursor);

  const range = (line) => `${names[line.run]} ${line.way} from ${short(line.smooth[0])} to ${short(line.smooth.at(-1))}`;
  const drawing = svg("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img",
    "aria-label": `Curves of ${title} over ${whole(lastStep)} steps: ${lines.map(range).join("; ")}` }, plot, axes);
  const stepUnder = (event) => {
    const box = drawing.getBoundingClientRect();
    const along = ((event.clientX - box.left) / box.width) * BOX.width - BOX.left;
    point(Math.round((Math.min(Math.max(along / wide, 0), 1)) * lastStep));
  };
  drawing.addEventListener("pointermove", stepUnder);
  drawing.addEventListener("pointerleave", () => point(null));

  const at = (step) => {
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    for (const line of lines) line.shown.textContent = short(line.smooth[upTo(line.steps, step)]);
  };
  return { node: el("figure", { class: "panel" }, el("figcaption", {}, title), drawing, legend), at };
}

/** The sample grids of all runs at one step of one direction; returns show(way, step). */
function film() {
  const views = data.runs.map((run, number) => {
    const caption = el("figcaption"), image = el("img", { decoding: "async" });
    const frames = (way) => data.film.filter((frame) => frame.run === number && frame.way === way);
    const node = el("figure", { class: "frame" }, caption,
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Samples of ${run.name}` }, image),
      el("p", { class: "quiet" }, `Rows, from the top: ${run.rows}. Columns: training pictures, then test pictures.`));
    return { run, node, caption, image, frames };
  });
  $("film").append(...views.map((view) => view.node));
  const kept = new Map(); // preloaded pictures near the present one, so that the film does not stutter
  return (way, step) => {
    for (const { run, node, caption, image, frames } of views) {
      const mine = frames(way);
      node.hidden = !mine.length;
      if (!mine.length) continue;
      const index = upTo(mine.map((frame) => frame.step), step), frame = mine[index];
      caption.textContent = `${run.name}, ${wayOf(way)}, step ${whole(frame.step)}`;
      image.alt = `Samples of ${run.name}, ${wayOf(way)}, at step ${whole(frame.step)}: four training and four test ` +
        "pictures side by side, on top the input, below it the output of the networks";
      const { src, width, height } = frame;
      if (image.getAttribute("src") !== src) dress(image, { src, width, height }, []);
      for (const { src: close } of mine.slice(Math.max(0, index - 2), index + 4)) {
        if (!kept.has(close)) kept.set(close, Object.assign(new Image(), { src: close }));
      }
      while (kept.size > 60) kept.delete(kept.keys().next().value);
    }
  };
}

/** Put as many rows of panels beside the film as fit its height, the others below it. */
function place() {
  const panel = $("beside").querySelector(".panel");
  const rows = panel ? Math.ceil(($("film").offsetHeight + 16) / (panel.offsetHeight + 16)) : 1;
  $("film").style.gridRow = `span ${rows}`;
}

function training() {
  const logged = data.panels.flatMap((p) => p.curves.flatMap((curve) => curve.steps));
  const ways = Object.keys(data.ways).filter((way) => data.film.some((frame) => frame.way === way));
  const steps = [...new Set(ways.length ? data.film.map((frame) => frame.step) : logged)].sort((a, b) => a - b);
  if (!steps.length) return;
  open("training");
  const last = Math.max(steps.at(-1), ...data.panels.flatMap((p) => p.curves.map((curve) => curve.steps.at(-1))));
  let way = ways[0];
  const slider = $("step");
  const point = (step) => panels.forEach((p) => p.at(step ?? steps[slider.value]));
  const panels = data.panels.map((p) => panel(p, last, point));
  $("beside").append(...panels.slice(0, 6).map((p) => p.node));
  $("more-curves").hidden = panels.length <= 6;
  $("more-curves").querySelector(".panels").append(...panels.slice(6).map((p) => p.node));

  if (ways.length) new ResizeObserver(place).observe($("film"));
  const showFilm = film();
  const show = () => {
    const step = steps[slider.value];
    $("step-shown").textContent = `${whole(step)} of ${whole(steps.at(-1))}`;
    slider.setAttribute("aria-valuetext", `step ${whole(step)}`);
    if (way) showFilm(way, step);
    point(null);
  };
  slider.max = slider.value = steps.length - 1;
  slider.addEventListener("input", show);
  if (way) choice($("film-ways"), "film-way", ways, (chosen) => { way = chosen; show(); });
  else show();

  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
  };
  const forward = () => {
    if (+slider.value >= steps.length - 1) return stop();
    slider.value = +slider.value + 1;
    show();
  };
  $("play").addEventListener("click", () => {
    if (timer) return stop();
    if (+slider.value >= steps.length - 1) slider.value = 0;
    show();
    $("play").textContent = "Pause";
    timer = setInterval(forward, Math.min(250, 12000 / steps.length)); // at most twelve seconds for a film
  });
  slider.addEventListener("pointerdown", stop);
  slider.addEventListener("keydown", stop);
}

// -------------------------------------------------------------------------------------- tables

function scores() {
  if (!data.scores.length) return;
  const cell = (value, winner) => {
    if (!value) return "";
    const [last, step] = value.last, [best, bestStep] = value.best;
    const shown = el(winner ? "b" : "span", { title: `at step ${whole(step)}` }, short(last));
    const more = bestStep === step ? "" : ` best ${short(best)} at ${whole(bestStep)}, ${value.chosen}`;
    return el("span", {}, shown, el("span", { class: "quiet" }, more));
  };
  const rows = data.scores.map((row) => [
    row.way ? `${row.title}, ${row.way.length === 1 ? `into ${row.way}` : row.way}` : row.title,
    ...row.cells.map((value, run) => cell(value, run === row.winner)),
  ]);
  table(open("scores").querySelector("table"), ["", ...names], rows);
}

function facts() {
  if (!data.facts.length) return;
  const [versions, options] = open("options").querySelectorAll("table");
  const rows = (wanted) => data.facts.filter((fact) => (fact.group === "options") === wanted).map((fact) => {
    const name = fact.group && !wanted ? `${fact.group}: ${fact.name}` : fact.name;
    const differs = new Set(fact.cells.filter(Boolean)).size > 1;
    return [differs ? el("mark", { title: "differs between the runs" }, name) : name, ...fact.cells];
  });
  table(versions, ["", ...names], rows(false));
  table(options, ["", ...names], rows(true));
}

// -------------------------------------------------------------------------------------- translations

/** A translation with its input over its left part, up to the position of its slider. */
function compare(input, answer, alt) {
  const box = el("div", { class: "compare" }, picture(answer, alt));
  const over = () => { // loaded on first use: most of a long page is never touched
    if (box.querySelectorAll("img").length === 1) box.firstChild.after(picture(input, ""));
  };
  const slide = () => {
    over();
    box.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `input over ${slider.value}%`);
  };
  const slider = el("input",
    { type: "range", min: 0, max: 100, value: 0, step: 2, input: slide, "aria-label": `Input over ${alt}` });
  box.append(slider, el("span", { class: "handle" }));
  const all = (value) => {
    over();
    slider.value = value;
    box.style.removeProperty("--cut");
  };
  return { box, all };
}

function translations() {
  if (!data.translations.length) return;
  open("translations");
  const list = $("cards");
  let boxes = [], cards = [];

  const shot = (content, caption, run) =>
    el("figure", { class: "shot" }, content,
      el("figcaption", run === undefined ? {} : { style: `--c: ${colour(run)}` }, caption));
  const card = (item, target) => {
    const shots = [shot(picture(item.input, `Input ${item.name}`), "input")];
    item.answers.forEach((answers, run) => {
      if (!answers.length) shots.push(shot(el("div", { class: "missing" }, "no picture"), names[run], run));
      answers.forEach((answer, k) => {
        const caption = answers.length > 1 ? `${names[run]} ${k + 1}` : names[run];
        const { box, all } = compare(item.input, answer, `${item.name} translated to ${target} by ${caption}`);
        boxes.push(all);
        shots.push(shot(box, caption, run));
      });
    });
    const node = el("li", { class: "card" },
      el("p", { class: "name", title: item.name }, item.name), el("div", { class: "shots" }, ...shots));
    node.style.setProperty("--n", shots.length);
    return { node, name: item.name.toLowerCase() };
  };
  const filter = () => {
    const wanted = $("filter").value.trim().toLowerCase();
    let left = 0;
    for (const { node, name } of cards) left += !(node.hidden = !name.includes(wanted));
    $("count").textContent = `${whole(left)} of ${whole(cards.length)}`;
  };
  const show = (way) => {
    boxes = [];
    $("all").value = 0;
    list.style.setProperty("--cut", "0%");
    const direction = data.translations.find((d) => d.way === way);
    cards = direction.items.map((item) => card(item, way.at(-1)));
    list.replaceChildren(...cards.map(({ node }) => node));
    filter();
  };
  const resize = () => list.style.setProperty("--size", `${$("size").value}px`);

  // initial size: a row of cards fills the page, and all runs are in one row, even on a phone
  const shots = 1 + names.length, between = 13, around = 22 + 6.4 * (shots - 1); // as in page.css, in pixels
  const columns = Math.max(1, Math.floor((list.clientWidth + between) / (shots * 128 + around + between)));
  const filling = ((list.clientWidth + between) / columns - between - around) / shots;
  $("size").value = Math.floor(Math.min(Math.max(filling, 80), 256));
  resize();
  $("size").addEventListener("input", resize);
  $("filter").addEventListener("input", filter);
  $("all").addEventListener("input", () => {
    for (const all of boxes) all($("all").value);
    list.style.setProperty("--cut", `${$("all").value}%`);
  });
  choice($("ways"), "way", data.translations.map((d) => d.way), show);
}

training();
scores();
facts();
translations();
