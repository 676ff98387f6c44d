// Asks the event stream what happens and, when something does, fetches this
// page again and puts its new content in place, at most once a second.
"use strict";
const main = document.getElementById("live");
const link = document.getElementById("link");
let pending = false;
let last = 0;

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function refresh() {
  if (pending) return;
  pending = true;
  await wait(Math.max(0, last + 1000 - Date.now()));
  pending = false;
  last = Date.now();
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
  if (next) main.replaceChildren(...next.childNodes);
}

async function follow(after) {
  const query = new URLSearchParams({ follow: "1", after });
  if (main.dataset.machine) query.set("machine", main.dataset.machine);
  const answer = await fetch("/api/v1/events?" + query);
  if (!answer.ok) throw new Error(answer.statusText);
  link.className = "link";
  link.textContent = "live";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return after;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.trim() === "") continue;
      after = JSON.parse(line).seq;
      main.dataset.after = after;
      refresh().catch(() => {});
    }
  }
}

(async () => {
  for (;;) {
    try {
      await follow(main.dataset.after);
    } catch {
      // told below
    }
    link.className = "link off";
    link.textContent = "reconnecting";
    await wait(2000);
  }
})();
setInterval(() => refresh().catch(() => {}), 30000); // "12 s" grows old
