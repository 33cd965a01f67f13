"use strict";
// A table that sorts by its headings, and filters it by a form; cards follow their rows.
// Rows of #data, of the table and data-row of the cards are numbered alike. A heading's data-key
// is what it sorts by; a select's data-key is what must equal its value, an input's data-least
// what must be at least its value.
const data = JSON.parse(document.getElementById("data").textContent);
const table = document.getElementById("rows");
const body = table.tBodies[0];
const lines = Array.from(body.rows);
const grid = document.getElementById("cards");
const cards = new Map(Array.from(grid.children, (card) => [Number(card.dataset.row), card]));
const filters = document.getElementById("filters");
const find = document.getElementById("find");
const shown = document.getElementById("shown");

function kept(row) {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (row.text + " " + row.scene).toLowerCase();
  if (!words.every((word) => text.includes(word))) return false;
  for (const field of filters.elements) {
    const { key, least } = field.dataset;
    if (key && field.value && row[key] !== field.value) return false;
    // What is typed is in percent, as the page shows it.
    if (least && field.value && 100 * row[least] < Number(field.value)) return false;
  }
  return true;
}

function filter() {
  let count = 0;
  data.forEach((row, i) => {
    const keep = kept(row);
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
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
filter();
