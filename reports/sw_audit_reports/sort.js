"use strict";
// Heads of columns become buttons that sort the rows; without this the table stays as it is, the worst first.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const first = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort ? cell.dataset.sort.split(" ").map(Number) : [cell.textContent.trim()];
  };
  const compare = (one, other) => {
    for (let place = 0; place < one.length; place += 1) {
      const apart = typeof one[place] === "number"
        ? one[place] - other[place] : one[place].localeCompare(other[place], "en", {numeric: true});
      if (apart) return apart;
    }
    return 0;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turned = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(one => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", turned ? "descending" : "ascending");
      const sorted = [...first].sort((one, other) => compare(key(one, column), key(other, column)));
      body.append(...(turned ? sorted.reverse() : sorted));
    });
  });
}
