"use strict";

const KEPT = `study ${data.study}`; // key of the answers in localStorage
// participant, started, at: number of the question shown, order: [{id, shown, choice, seconds}]
let state = restore() || begin();
let stores = true; // whether localStorage holds the state
let asked = 0; // when the present question appeared
let turned = -Infinity; // when a click or key brought the present view
const NONE = "none"; // the choice of those who prefer nothing
const PAUSE = 500; // milliseconds in which a new view takes no answer: it would be the second of a double click

$("title").textContent = document.title = data.title;
$("task").textContent = `You will see ${data.questions.length} pictures, one after the other, and below each ` +
  `${data.questions[0].answers.length} translations of it. ${data.question}`;
$("question").textContent = data.question;

/** The things in random order, uniformly. */
function shuffled(things) {
  const order = [...things];
  for (let i = order.length - 1; i > 0; i -= 1) {
    const j = Math.floor((crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function begin() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  const participant = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const order = shuffled(data.questions).map(({ id, answers }) =>
    ({ id, shown: shuffled(answers), choice: null, seconds: 0 }));
  return { participant, started: null, at: 0, order };
}

function restore() {
  try {
    return JSON.parse(localStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(state));
  } catch {
    stores = false;
    $("memory").hidden = false;
  }
}

function view(id) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== id;
  $(id).querySelector("[tabindex='-1']")?.focus({ preventScroll: true }); // so that screen readers begin here
  scrollTo(0, 0);
}

function show() {
  asked = performance.now();
  if (!state.started) return view("welcome");
  const { at, order } = state;
  if (at >= order.length) {
    $("summary").textContent =
      `You answered ${order.length} questions. Save the file and send it to the person who asked you.`;
    return view("end");
  }
  const { id, shown, choice } = order[at];
  $("progress").max = order.length;
  $("progress").value = at;
  $("place").textContent = `${at + 1} of ${order.length}`;
  $("back").disabled = at === 0;
  $("input").replaceChildren(picture(data.pictures[id], "The picture to be translated", { loading: "eager" }));
  $("answers").replaceChildren(...shown.map((answer, i) =>
    el("button",
      { type: "button", class: "answer", "aria-pressed": String(answer === choice), click: () => choose(id, answer) },
      picture(data.pictures[answer], `Answer ${i + 1}`, { loading: "eager" }), el("span", {}, String(i + 1)))));
  $("none").setAttribute("aria-pressed", String(choice === NONE));
  $("none").onclick = () => choose(id, NONE);
  for (const next of order.slice(at + 1, at + 3)) { // preload the next questions
    for (const word of [next.id, ...next.shown]) new Image().src = data.pictures[word].src;
  }
  view("asking");
}

/** Take what another tab has stored since; false: it is another participant's. */
function follow() {
  const { participant } = state;
  if (stores) state = restore() || state;
  return state.participant === participant;
}

/** Change the state by `edit`, keep it and show it; only show it if another participant has begun in another tab. */
function change(edit) {
  if (follow()) edit();
  turned = performance.now();
  keep();
  show();
}

function choose(id, choice) {
  const seconds = +((performance.now() - asked) / 1000).toFixed(1);
  change(() => {
    const place = state.order.findIndex((question) => question.id === id);
    Object.assign(state.order[place], { choice, seconds });
    state.at = place + 1;
  });
}

function back() {
  change(() => { state.at = Math.max(0, state.at - 1); });
}

function save() {
  follow();
  const { participant, started, order } = state;
  const answers = order.filter(({ choice }) => choice)
    .map(({ id, shown, choice, seconds }) => ({ question: id, choice, shown, seconds }));
  const text = JSON.stringify({ study: data.study, participant, started, answers }, null, 1);
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = el("a", { href, download: `answers-${participant}.json` });
  document.body.append(link);
  link.click();
  link.remove();
}

// the second click of a double click means the former view (its event.detail is 1, as the button is new); going back
// twice is harmless
document.addEventListener("click", (event) => {
  const second = performance.now() - turned < PAUSE;
  if (second && event.isTrusted && !event.target.closest("#back")) event.stopPropagation();
}, true);
$("start").addEventListener("click", () => change(() => { state.started ||= new Date().toISOString(); }));
$("back").addEventListener("click", back);
$("last").addEventListener("click", back);
$("save").addEventListener("click", save);
$("anew").addEventListener("click", () => {
  if (!confirm("Delete these answers and start again? Save them first.")) return;
  state = begin();
  turned = performance.now();
  keep();
  show();
});
addEventListener("storage", (event) => {
  if (event.key !== KEPT) return;
  follow();
  show();
});
document.addEventListener("keydown", (event) => {
  if ($("asking").hidden || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (performance.now() - turned < PAUSE) return;
  const { id, shown } = state.order[state.at];
  const answer = event.key === "0" ? NONE : shown[Number(event.key) - 1];
  if (answer) choose(id, answer);
});

keep();
show();
