"use strict";
// An image is sent to /predict and the response is shown. Names from others are inserted as text, never as HTML.

const byId = (id) => document.getElementById(id);
const MOST_PREDICTIONS = 1000; // all of them
const MOST_NAMED = 20;
let token = sessionStorage.getItem("token") ?? ""; // kept until this tab is closed
let last = null; // the image that waits for a token
let turn = 0; // responses to older images are dropped

/** image: a file, or the promise of one. */
async function show(image, name) {
  const mine = ++turn;
  last = { image, name };
  byId("answer").classList.add("busy");
  say("Classifying …", "");
  bringIntoView(byId("answer"));
  try {
    const given = await image;
    const reply = await ask(`/predict?top=${MOST_PREDICTIONS}&pixels=true`, given);
    if (mine === turn) answer(reply, given, name);
  } catch (error) {
    if (mine === turn) fail(error);
  } finally {
    if (mine === turn) byId("answer").classList.remove("busy");
  }
}

/** The JSON of the service; the response of a proxy in front of it may be no JSON. */
async function ask(path, image) {
  const headers = { "Content-Type": "application/octet-stream" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, image ? { method: "POST", body: image, headers } : { headers });
  } catch {
    throw new Error("The service cannot be reached: is it still running?");
  }
  const reply = await response.json().catch(() => null);
  byId("login").hidden = response.status !== 401;
  if (response.status === 401) throw new Error(token ? "This token is wrong." : "Ask whoever runs this service for it.");
  if (response.ok && reply) return reply;
  if (response.status === 413 && !reply) throw new Error("The file is too large for the proxy in front of this service.");
  throw new Error(reply?.error ?? `The service did not answer (${response.status}).`);
}

/** Show the classes of the model; hide drawings of other classes. */
async function introduce() {
  try {
    const { classes } = await ask("/model");
    const shown = classes.slice(0, MOST_NAMED).join(", ");
    const more = classes.length - MOST_NAMED;
    byId("knows").textContent = `Its classes: ${shown}${more > 0 ? ` and ${more} more` : ""}.`;
    for (const item of byId("examples").children) item.hidden = !classes.includes(item.dataset.label);
    byId("drawings").hidden = [...byId("examples").children].every((item) => item.hidden);
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  byId("result").hidden = true;
  const headline = byId("login").hidden ? "No prediction" : "A token is needed";
  say(headline, error.message.charAt(0).toUpperCase() + error.message.slice(1));
  bringIntoView(byId("answer"));
  if (!byId("login").hidden) byId("token").focus();
}

function say(headline, remark) {
  byId("said").textContent = headline;
  byId("remark").textContent = remark;
  byId("status").textContent = `${headline}. ${remark}`;
}

function answer(reply, image, name) {
  const [prediction] = reply.predictions;
  const best = prediction.top[0];
  const unsure = reply.threshold !== null && best.probability < reply.threshold;
  const unlike = reply.distance_threshold !== null && prediction.distance > reply.distance_threshold;
  const confidence = percent(best.probability).replace("> ", "over\u00a0");
  const below = unsure ? `, below the threshold of ${percent(reply.threshold)}` : "";
  const guess = `Best class: ${best.label}, confidence ${confidence}${below}.`;
  if (unlike) say("Unlike the training images", `It may show none of these classes. ${guess}`);
  else if (unsure) say("Not sure", guess);
  else say(best.label, `Confidence ${confidence}.`);
  URL.revokeObjectURL(byId("given").src);
  byId("given").hidden = false;
  byId("given").src = URL.createObjectURL(image);
  byId("name").textContent = name;
  byId("pixels").textContent = `Input of the network: ${reply.size}\u00a0×\u00a0${reply.size} pixels`;
  drawPixels(byId("seen"), prediction.pixels, reply.size);
  byId("bars").className = unsure || unlike ? "unsure" : "";
  byId("bars").replaceChildren(...prediction.top.slice(0, 10).map(bar));
  byId("result").hidden = false;
  bringIntoView(byId("answer"));
}

/** On a phone the prediction is below the fold. */
function bringIntoView(section) {
  if (section.getBoundingClientRect().top < innerHeight / 2) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}

/** With one decimal; what is not quite 100 % or 0 % is not rounded to it (as `console.percent`). */
function percent(share) {
  if (share < 1 && share >= 0.9995) return "> 99.9\u00a0%";
  if (share > 0 && share < 0.0005) return "< 0.1\u00a0%";
  return `${(100 * share).toFixed(share === 0 || share === 1 ? 0 : 1)}\u00a0%`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text ?? "";
  return made;
}

function bar({ label, probability }) {
  const item = element("li", "");
  const track = element("span", "track");
  const filled = element("div", "bar");
  filled.style.width = `${100 * probability}%`;
  filled.hidden = probability < 0.0005; // shown as less than 0.1 %
  track.append(filled);
  track.setAttribute("aria-hidden", "true");
  item.append(element("span", "label", label), track, element("span", "share", percent(probability)));
  return item;
}

/** Draw base64 of size × size × 3 bytes, a pixel for a pixel; the style enlarges it without smoothing. */
function drawPixels(canvas, encoded, size) {
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    image.data.set(bytes.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// --- ways to choose an image ---

function showFirst(files) {
  const file = [...files].find((file) => file.type.startsWith("image/")) ?? files[0];
  if (file) show(file, files.length > 1 ? `${file.name}, the first of ${files.length} files` : file.name);
  else fail(new Error("That is not a file: save the image, then drop or choose it here."));
}

function toBlob(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function listenForFiles() {
  const drop = byId("drop");
  byId("choose").addEventListener("click", () => byId("file").click());
  for (const id of ["file", "capture"]) {
    byId(id).addEventListener("change", (event) => {
      if (event.target.files.length) showFirst(event.target.files);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  // wherever on the page it is dropped: a browser would leave the page for it
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    showFirst(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.target !== byId("token")) showFirst(event.clipboardData.files);
  });
  byId("given").addEventListener("error", () => {
    byId("given").hidden = true;
    byId("name").textContent += " (an image format that this browser cannot show)";
  });
}

function listenForCamera() {
  const dialog = byId("camera");
  const video = byId("video");
  byId("photograph").addEventListener("click", openCamera);
  video.addEventListener("loadeddata", () => (byId("take").disabled = false)); // before it there is no frame
  byId("cancel").addEventListener("click", () => dialog.close());
  byId("take").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    const side = Math.min(video.videoWidth, video.videoHeight);
    canvas.width = canvas.height = side;
    const [left, top] = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
    canvas.getContext("2d").drawImage(video, left, top, side, side, 0, 0, side, side);
    dialog.close();
    show(toBlob(canvas), "Your photo");
  });
  dialog.addEventListener("close", () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  });
}

async function openCamera() {
  if (!navigator.mediaDevices) {
    byId("capture").click(); // browsers give pages the camera only over HTTPS or on this machine; phones have an app
    return;
  }
  const dialog = byId("camera");
  let opened = false;
  try {
    const video = byId("video");
    byId("take").disabled = true;
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    dialog.showModal();
    opened = true;
    await video.play();
  } catch {
    if (opened && !dialog.open) return; // it was closed before the first frame
    dialog.close();
    fail(new Error("There is no camera, or this page may not use it."));
  }
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("token", token);
  say("No image yet", "The prediction appears here.");
  introduce().then(() => last && byId("login").hidden && show(last.image, last.name));
});

// --- drawings to try: 96 × 96, made of plain shapes ---

function sky(c, top, bottom, ground, horizon) {
  const shade = c.createLinearGradient(0, 0, 0, horizon);
  shade.addColorStop(0, top);
  shade.addColorStop(1, bottom);
  c.fillStyle = shade;
  c.fillRect(0, 0, 96, horizon);
  c.fillStyle = ground;
  c.fillRect(0, horizon, 96, 96 - horizon);
}

function shape(c, colour, ...points) {
  c.fillStyle = colour;
  c.beginPath();
  points.forEach(([x, y]) => c.lineTo(x, y));
  c.fill();
}

function blob(c, colour, x, y, width, height, angle = 0) {
  c.fillStyle = colour;
  c.beginPath();
  c.ellipse(x, y, width, height, angle, 0, 2 * Math.PI);
  c.fill();
}

function wheels(c, y, radius, ...places) {
  for (const x of places) {
    blob(c, "#15171a", x, y, radius, radius);
    blob(c, "#a9adb2", x, y, radius / 2.2, radius / 2.2);
  }
}

const DRAWINGS = {
  airplane(c) {
    sky(c, "#5d9bd8", "#b9d7ef", "#b9d7ef", 96);
    shape(c, "#9aa4ae", [44, 50], [20, 76], [30, 78], [60, 52]);
    shape(c, "#c9d0d6", [46, 44], [34, 22], [42, 22], [62, 44]);
    blob(c, "#eef1f4", 48, 48, 40, 7, -0.06);
    shape(c, "#3d5f8f", [12, 50], [4, 30], [14, 30], [26, 47]);
    shape(c, "#33404d", [78, 43], [85, 44], [86, 47], [77, 46]);
  },
  ship(c) {
    sky(c, "#a9cbe4", "#dbe7ee", "#2f6690", 60);
    shape(c, "#26333f", [8, 54], [90, 52], [80, 72], [18, 72]);
    shape(c, "#a63a2e", [15, 66], [83, 66], [80, 73], [18, 73]);
    shape(c, "#f4f4f0", [24, 54], [24, 42], [70, 42], [74, 53]);
    shape(c, "#e2e4e2", [34, 42], [34, 33], [60, 33], [62, 42]);
    shape(c, "#c64b32", [42, 33], [42, 19], [51, 19], [51, 33]);
    for (let x = 30; x < 68; x += 8) shape(c, "#3a5c78", [x, 46], [x + 4, 46], [x + 4, 50], [x, 50]);
  },
  automobile(c) {
    sky(c, "#bcd3e2", "#e4e8e4", "#77797b", 62);
    shape(c, "#b3261e", [24, 46], [34, 31], [62, 31], [75, 46]);
    shape(c, "#cf3027", [8, 48], [24, 44], [76, 44], [90, 52], [90, 66], [8, 66]);
    shape(c, "#28394a", [29, 45], [37, 34], [47, 34], [47, 45]);
    shape(c, "#28394a", [50, 45], [50, 34], [61, 34], [70, 45]);
    wheels(c, 67, 9, 26, 72);
  },
  truck(c) {
    sky(c, "#b8cfdf", "#e6e8e2", "#7d7a72", 66);
    shape(c, "#eceae4", [4, 20], [62, 20], [62, 64], [4, 64]);
    shape(c, "#c9c6bd", [4, 58], [62, 58], [62, 66], [4, 66]);
    shape(c, "#2f62a8", [64, 32], [80, 32], [91, 48], [91, 68], [64, 68]);
    shape(c, "#1f2d3a", [69, 37], [78, 37], [86, 49], [69, 49]);
    wheels(c, 70, 9, 18, 36, 78);
  },
  frog(c) {
    sky(c, "#5f7a3a", "#718a45", "#6a5a3c", 70);
    blob(c, "#4f9a36", 48, 60, 30, 22);
    blob(c, "#63b344", 48, 44, 25, 17);
    blob(c, "#3f842b", 20, 72, 14, 8, 0.5);
    blob(c, "#3f842b", 76, 72, 14, 8, -0.5);
    for (const x of [34, 62]) {
      blob(c, "#7cc95a", x, 29, 9, 9);
      blob(c, "#f2ecc0", x, 28, 6, 6);
      blob(c, "#141a10", x, 28, 3.5, 4.5);
    }
    blob(c, "#cfe6a2", 48, 68, 18, 11);
  },
  bird(c) {
    sky(c, "#a8c8a0", "#cfdcc0", "#cfdcc0", 96);
    shape(c, "#6b5138", [0, 74], [96, 66], [96, 71], [0, 80]);
    shape(c, "#5b4a3c", [22, 56], [2, 74], [10, 78], [34, 62]);
    blob(c, "#7a6350", 46, 52, 24, 16, -0.35);
    blob(c, "#c98a5a", 54, 55, 14, 12, -0.4);
    blob(c, "#6a5546", 66, 34, 11, 10);
    shape(c, "#d9a02b", [75, 31], [88, 35], [75, 38]);
    blob(c, "#101010", 69, 32, 2.2, 2.2);
    blob(c, "#54453a", 38, 50, 17, 9, -0.2);
    shape(c, "#5a4630", [46, 66], [48, 66], [47, 75], [45, 75]);
    shape(c, "#5a4630", [54, 65], [56, 65], [55, 74], [53, 74]);
  },
};

function drawExamples() {
  for (const [name, draw] of Object.entries(DRAWINGS)) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 96;
    canvas.setAttribute("aria-hidden", "true");
    draw(canvas.getContext("2d"));
    const button = element("button", "");
    button.type = "button";
    button.append(canvas, name);
    button.addEventListener("click", () => show(toBlob(canvas), `A drawing: ${name}`));
    const item = element("li", "");
    item.dataset.label = name;
    item.hidden = true; // until the classes of the model are known
    item.append(button);
    byId("examples").append(item);
  }
}

for (const id of ["ways", "answer", "skip"]) byId(id).hidden = false; // without this script they do nothing
listenForFiles();
listenForCamera();
drawExamples();
introduce();
