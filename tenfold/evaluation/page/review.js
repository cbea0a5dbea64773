// Corrections of labels: DATA.review has the images; choices stay in the browser until they are saved as a file.

const REVIEW = DATA.review;
const ACTIONS = { keep: "Keep", relabel: "Relabel", drop: "Drop", unsure: "Unsure" };
const DONE = { keep: "kept", relabel: "relabelled", drop: "dropped", unsure: "unsure" };
const STORAGE_KEY = `tenfold-corrections-${REVIEW.key}`;
const keyOf = (row) => row.path || `${row.split}/${row.index}`;

class Choices {
  constructor() {
    this.kept = true; // whether the browser keeps them
    this.map = new Map(Object.entries(this.read()));
  }

  read() {
    try {
      return JSON.parse(localStorage.getItem(STORAGE_KEY)) || {};
    } catch {
      this.kept = false;
      return {};
    }
  }

  set(key, choice) {
    if (choice) this.map.set(key, choice);
    else this.map.delete(key);
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(Object.fromEntries(this.map)));
    } catch {
      this.kept = false;
    }
  }

  clear() {
    [...this.map.keys()].forEach((key) => this.set(key, null));
  }
}

const choices = new Choices();
const byKey = new Map(REVIEW.items.map((item) => [keyOf(item), item]));
const list = document.getElementById("review-list");
const reviewFilters = document.getElementById("review-filters");
const reviewGallery = new Gallery(list, document.getElementById("review-count"), drawCard);

// --- a card ---

function drawCard(item) {
  const card = element("div", "card");
  card.dataset.key = keyOf(item);
  card.setAttribute("role", "group");
  const image = picture(0, "", `${item.name}`, [element("span", "name", item.name), captionOf(item)]);
  image.querySelector(".image").className = `image ${item.image}`;
  const buttons = element("div", "choices");
  Object.keys(ACTIONS).forEach((action) => buttons.append(choiceButton(action)));
  card.append(image, buttons, labelSelect(item));
  show(card, item);
  return card;
}

function captionOf(item) {
  const caption = element("span", "", `label ${DATA.classes[item.label]}`);
  caption.append(element("span", "answer", `${DATA.classes[item.suggested]}? ${formatConfidence(item.confidence)}`));
  return caption;
}

function choiceButton(action) {
  const button = element("button", "choice");
  button.type = "button";
  button.dataset.action = action;
  button.setAttribute("aria-keyshortcuts", action[0].toUpperCase());
  const hint = element("kbd", "", action[0].toUpperCase());
  hint.setAttribute("aria-hidden", "true");
  button.append(element("span", "", ACTIONS[action]), hint);
  return button;
}

function labelSelect(item) {
  const label = element("label", "", "as ");
  const select = element("select");
  const suggested = element("option", "", DATA.classes[item.suggested]);
  suggested.value = item.suggested;
  select.append(suggested);
  const fill = () => {
    if (select.length > 1 || DATA.classes.length < 2) return; // only once it is needed: there may be a thousand classes
    const chosen = select.value;
    select.replaceChildren();
    fillSelect(select, DATA.classes);
    select.value = chosen;
  };
  select.addEventListener("focus", fill);
  select.addEventListener("pointerdown", fill);
  label.append(select);
  return label;
}

/** Show what was chosen for a card's image; in words and by a mark, not by colour alone. */
function show(card, item) {
  const choice = choices.map.get(card.dataset.key);
  const select = card.querySelector("select");
  if (choice && choice.action === "relabel") setLabel(select, REVIEW.classes.indexOf(choice.label));
  card.className = choice ? `card ${choice.action}` : "card";
  card.querySelectorAll(".choice").forEach((button) => {
    button.setAttribute("aria-pressed", String(Boolean(choice) && button.dataset.action === choice.action));
  });
  const done = choice ? `, ${DONE[choice.action]}` : "";
  card.setAttribute("aria-label", `${item.name}: label ${DATA.classes[item.label]}${done}`);
}

function setLabel(select, number) {
  if (number < 0) return;
  if (![...select.options].some((option) => option.value === String(number))) {
    const option = element("option", "", DATA.classes[number]);
    option.value = number;
    select.append(option);
    if (select.length > 1 && select.length < DATA.classes.length) select.dispatchEvent(new Event("pointerdown"));
  }
  select.value = String(number);
}

// --- choosing ---

function choose(card, action) {
  const item = byKey.get(card.dataset.key);
  const label = action === "relabel" ? REVIEW.classes[Number(card.querySelector("select").value)] : "";
  choices.set(card.dataset.key, action ? { action, label } : null);
  show(card, item);
  count();
}

function count() {
  const made = [...choices.map].filter(([key]) => byKey.has(key)).map(([, choice]) => choice.action);
  const parts = Object.keys(DONE)
    .map((action) => [made.filter((other) => other === action).length, DONE[action]])
    .filter(([number]) => number)
    .map(([number, word]) => `${number} ${word}`);
  const kept = choices.kept ? "" : " This browser does not keep choices: save before you leave the page.";
  const details = parts.length ? `: ${parts.join(", ")}` : "";
  document.getElementById("review-status").textContent = `${made.length} of ${REVIEW.items.length} decided${details}.${kept}`;
  document.getElementById("review-save").disabled = !made.length && !REVIEW.earlier.length;
}

const cards = () => [...list.querySelectorAll(".card")];

/** Only the current card is a stop of the tabulator, with its buttons; the arrow keys move between cards. */
function makeCurrent(card) {
  cards().forEach((other) => {
    const stop = other === card ? 0 : -1;
    other.tabIndex = stop;
    other.querySelectorAll("button, select").forEach((part) => (part.tabIndex = stop));
  });
}

function step(card, by) {
  if (by > 0 && card === cards().at(-1) && !reviewGallery.button.hidden) reviewGallery.grow();
  const all = cards();
  const next = all[all.indexOf(card) + by];
  if (!next) return;
  makeCurrent(next);
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

list.addEventListener("keydown", (event) => {
  const card = event.target.closest(".card");
  if (!card || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const action = Object.keys(ACTIONS).find((name) => name[0] === event.key.toLowerCase());
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (action) choose(card, action);
  else if (event.key === "Backspace" || event.key === "Delete") choose(card, null);
  else if (!by) return;
  event.preventDefault();
  if (action || by) step(card, by || 1);
});

list.addEventListener("click", (event) => {
  const button = event.target.closest(".choice");
  if (!button) return;
  const card = button.closest(".card");
  choose(card, button.getAttribute("aria-pressed") === "true" ? null : button.dataset.action);
});

list.addEventListener("change", (event) => choose(event.target.closest(".card"), "relabel"));
list.addEventListener("focusin", (event) => makeCurrent(event.target.closest(".card")));

// --- which are shown ---

function filterReview() {
  const { why, open } = reviewFilters.elements;
  const wanted = REVIEW.items.filter(
    (item) => (!why.value || item.why.includes(why.value)) && (!open.checked || !choices.map.has(keyOf(item))),
  );
  reviewGallery.show(wanted, `${wanted.length.toLocaleString("en")} images`);
  if (cards().length) makeCurrent(cards()[0]);
}

// --- saving ---

/** All corrections: those that the run was trained with, and the choices, of an image the later one. */
function correctionRows() {
  const rows = new Map(REVIEW.earlier.map((row) => [keyOf(row), row]));
  REVIEW.items.forEach((item) => {
    const choice = choices.map.get(keyOf(item));
    const before = rows.get(keyOf(item));
    const earlier = before && before.action === "relabel";
    if (!choice || (earlier && (choice.action === "keep" || choice.action === "unsure"))) return;
    const given = earlier ? before.given : REVIEW.classes[item.label];
    const same = choice.action === "relabel" && choice.label === given;
    const made = same ? { action: "keep", label: "" } : choice;
    const { path, sha256, split, index } = item;
    rows.set(keyOf(item), { path, sha256, split, index, given, action: made.action, label: made.label });
  });
  return [...rows.values()];
}

function toCsv(rows) {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = rows.map((row) => REVIEW.columns.map((name) => cell(row[name])).join(","));
  return [REVIEW.columns.join(","), ...lines].map((line) => `${line}\n`).join("");
}

function save() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([toCsv(correctionRows())], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

if (REVIEW.items.length) {
  document.getElementById("review-tool").hidden = false;
  reviewFilters.addEventListener("input", filterReview);
  reviewFilters.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("review-save").addEventListener("click", save);
  document.getElementById("review-clear").addEventListener("click", () => {
    choices.clear();
    filterReview();
    count();
  });
  filterReview();
  count();
}
