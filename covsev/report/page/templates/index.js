(() => {
  const table = document.getElementById("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const find = document.getElementById("find"), quality = document.getElementById("quality");
  const value = (row, column, kind) => {
    const text = row.cells[column]?.dataset.sort ?? "";
    return text === "" ? null : kind === "number" ? Number(text) : text.toLowerCase();
  };
  const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b);
  const sort = (head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending", kind = head.dataset.kind;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [value(row, column, kind), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  };
  const filter = () => {
    const wanted = find.value.trim().toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !(row.textContent.toLowerCase().includes(wanted) && (!quality.value || row.dataset.quality === quality.value));
      shown += !row.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${body.rows.length} shown`;
  };
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => sort(head, column)));
  find.addEventListener("input", filter);
  quality.addEventListener("change", filter);
})();
