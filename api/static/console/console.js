// Additions to htmx. Every page works without this file.
"use strict";

// Buttons that copy an id, if the browser allows it.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  navigator.clipboard.writeText(button.dataset.copy).then(() => {
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1200);
  });
});

function showCopyButtons(root) {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
}
showCopyButtons(document);
document.addEventListener("htmx:load", (event) => showCopyButtons(event.detail.elt));

// The key "/" moves the focus to the search.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.getElementById("q");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
});

// Live parts send no request while the page is hidden. They show a notice when an update fails.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.detail.elt.matches("[data-live]")) event.preventDefault();
});
for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    const live = event.detail.elt.closest("[data-live]");
    if (live) live.dataset.live = "lost";
  });
}

// A filter applies when its choice changes.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form.filters");
  if (form && event.target.matches("select")) form.requestSubmit();
});

// Times in the zone of the reader. The title of each has the time in UTC. Ages, such as "3 s ago", stay.
function showLocalTimes(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time[data-clock]")) {
    const moment = new Date(time.dateTime);
    const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
    const day = { day: "2-digit", month: "short" };
    if (moment.getFullYear() !== new Date().getFullYear()) day.year = "numeric";
    const parts = moment.toDateString() === today ? clock : { ...day, ...clock };
    time.textContent = moment.toLocaleString("en-GB", parts).replace(",", "");
    time.removeAttribute("data-clock");
  }
}
showLocalTimes(document);
document.addEventListener("htmx:load", (event) => showLocalTimes(event.detail.elt));

// A box in the heading selects all rows, and the bar with the actions counts those that are selected.
function countSelected(form) {
  const boxes = [...form.querySelectorAll('input[name="id"]')];
  const count = boxes.filter((box) => box.checked).length;
  const all = form.querySelector(".pick-all");
  all.checked = count === boxes.length;
  all.indeterminate = count > 0 && count < boxes.length;
  form.querySelector(".pick-count").textContent = count ? `${count} selected.` : "";
  form.classList.toggle("picking", count > 0);
}
for (const all of document.querySelectorAll(".pick-all")) {
  all.hidden = false;
  countSelected(all.form);
}
document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (!form || !form.querySelector(".pick-all")) return;
  if (event.target.matches(".pick-all")) {
    for (const box of form.querySelectorAll('input[name="id"]')) box.checked = event.target.checked;
  }
  countSelected(form);
});
