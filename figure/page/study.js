"use strict";

const KEPT = `study ${data.study}`; // key of the answers in localStorage
// participant, started, at: number of the question shown, order: [{id, shown, choice, seconds}]
let state = restore() || begin();
let asked = 0; // when the present question appeared

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
    $("memory").hidden = false;
  }
}

function view(id) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== id;
  $(id).querySelector("[tabindex='-1']")?.focus({ preventScroll: true }); // so that screen readers begin here
  scrollTo(0, 0);
}

function show() {
  keep();
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
      { type: "button", class: "answer", "aria-pressed": String(answer === choice), click: () => choose(answer) },
      picture(data.pictures[answer], `Answer ${i + 1}`, { loading: "eager" }), el("span", {}, String(i + 1)))));
  for (const next of order.slice(at + 1, at + 3)) { // preload the next questions
    for (const word of [next.id, ...next.shown]) new Image().src = data.pictures[word].src;
  }
  asked = performance.now();
  view("asking");
}

function choose(answer) {
  const question = state.order[state.at];
  question.choice = answer;
  question.seconds = +((performance.now() - asked) / 1000).toFixed(1);
  state.at += 1;
  show();
}

function back() {
  state.at -= 1;
  show();
}

function save() {
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

$("start").addEventListener("click", () => {
  state.started = new Date().toISOString();
  show();
});
$("back").addEventListener("click", back);
$("last").addEventListener("click", back);
$("save").addEventListener("click", save);
$("anew").addEventListener("click", () => {
  if (!confirm("Delete these answers and start again? Save them first.")) return;
  state = begin();
  show();
});
document.addEventListener("keydown", (event) => {
  if ($("asking").hidden || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const answer = state.order[state.at].shown[Number(event.key) - 1];
  if (answer) choose(answer);
});

show();
