"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const table = document.getElementById("rows");
const body = table.tBodies[0];
const lines = Array.from(body.rows);
const grid = document.getElementById("cards");
const cards = new Map(Array.from(grid.children, (card) => [Number(card.dataset.row), card]));
const find = document.getElementById("find");
const filters = document.getElementById("filters");
const selects = Array.from(filters.querySelectorAll("select[data-key]"));
const score = document.getElementById("score");
const least = document.getElementById("least");
const most = document.getElementById("most");
const shown = document.getElementById("shown");

// Fields in percent, as the table shows scores; half of its last digit is given away.
function between(value) {
  const low = least.value === "" ? -Infinity : Number(least.value) / 100 - 0.0005;
  const high = most.value === "" ? Infinity : Number(most.value) / 100 + 0.0005;
  return value >= low && value <= high;
}

function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  data.forEach((row, i) => {
    const text = (row.text + " " + row.scene).toLowerCase();
    const keep =
      words.every((word) => text.includes(word)) &&
      selects.every((select) => !select.value || select.value === row[select.dataset.key]) &&
      between(row[score.value]);
    lines[i].hidden = !keep;
    if (cards.has(i)) cards.get(i).hidden = !keep;
    count += keep;
  });
  shown.textContent = count + " of " + data.length + " queries";
}

function sortBy(header) {
  const key = header.dataset.key;
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const sign = up ? 1 : -1;
  const order = data.map((_, i) => i).sort((i, j) => {
    const a = data[i][key];
    const b = data[j][key];
    const compared = typeof a === "number" ? a - b : a.localeCompare(b);
    return sign * compared || i - j;
  });
  for (const i of order) {
    body.append(lines[i]);
    if (cards.has(i)) grid.append(cards.get(i));
  }
}

for (const header of table.tHead.rows[0].cells) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = header.textContent;
  button.addEventListener("click", () => sortBy(header));
  header.replaceChildren(button);
}
filters.addEventListener("input", filter);
// The fields are emptied after the event.
filters.addEventListener("reset", () => setTimeout(filter));
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
filter();
