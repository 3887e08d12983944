"use strict";
// Samples are shown with textContent alone: whatever a model wrote stays text.
(() => {
  const byId = (id) => document.getElementById(id);
  const index = JSON.parse(byId("sample-index").textContent);
  const list = byId("sample-list"), form = byId("filters"), status = byId("sample-status"), more = byId("more");
  const held = new Map(), waiting = new Map();
  const PAGE = 40, LONG = 3000;
  let found = [], shown = 0, group = null;

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const percent = (rate) => `${Math.round(100 * rate)} %`;

  // Groups beside the page are scripts that call this: a page opened from a folder may not fetch.
  window.steersweepSamples = (number, data) => {
    held.set(number, data);
    (waiting.get(number) || []).forEach((go) => go());
    waiting.delete(number);
  };
  const load = (number, go) => {
    const embedded = byId(`samples-${number}`);
    if (embedded && !held.has(number)) held.set(number, JSON.parse(embedded.textContent));
    if (held.has(number)) return go();
    waiting.set(number, [...(waiting.get(number) || []), go]);
    const script = make("script");
    script.src = index[number].src;
    script.onerror = () => { status.textContent = `${index[number].src} is missing: keep the folder beside this page.`; };
    document.head.append(script);
  };

  const named = (condition) => {
    if (condition.layer_idx === undefined) return "unsteered";
    const strength = condition.multiplier === 0 ? "removed" : `multiplier ${Number(condition.multiplier).toPrecision(3)}, relative ${Number(condition.relative_strength).toPrecision(2)}`;
    return `${condition.method}, layer ${condition.layer_idx}, ${strength}`;
  };
  const option = (select, value, text) => { const one = make("option", "", text); one.value = value; select.append(one); };

  const fillConditions = (key) => {
    const select = form.elements.condition;
    select.replaceChildren();
    option(select, "", "all");
    group.conditions.forEach((condition, number) => option(select, number, named(condition)));
    const number = group.conditions.findIndex((condition) => condition.key === key);
    select.value = number < 0 ? "" : String(number);
  };

  const facts = () => {
    const box = byId("condition");
    box.replaceChildren();
    const condition = group.conditions[form.elements.condition.value];
    document.querySelectorAll(".map a[aria-current]").forEach((cell) => cell.removeAttribute("aria-current"));
    if (!condition) return;
    document.querySelectorAll(`.map a[href$="${condition.key}"]`).forEach((cell) => cell.setAttribute("aria-current", "true"));
    const rows = [
      ["condition", named(condition)],
      ["coherent refusals", `${percent(condition.coherent_refusal_rate)} [${condition.coherent_refusal_ci.map(percent).join(", ")}] of ${condition.n_unique} prompts`],
      ["garbled", percent(condition.garbled_rate)],
    ];
    if (condition.p_vs_unsteered_holm !== undefined) rows.push(["against no steering", `p ${condition.p_vs_unsteered_holm} (Holm)`]);
    const terms = make("dl", "facts");
    rows.forEach(([name, value]) => terms.append(make("dt", "", name), make("dd", "", value)));
    const files = [`conditions/${condition.key}.json`, ...(condition.direction_file ? [condition.direction_file] : [])];
    const place = make("dd");
    files.forEach((file, i) => { const link = make("a", "", file); link.href = file; place.append(i ? ", " : "", link); });
    terms.append(make("dt", "", "files"), place);
    box.append(terms);
  };

  const card = ([number, prompt, response, quality, refusal, finish, mode, ambiguous]) => {
    const box = make("article", `sample q-${quality}`);
    box.append(make("div", "prompt", group.prompts[prompt]));
    const text = make("div", "response", response.length > LONG ? `${response.slice(0, LONG)} …` : response || "(empty)");
    text.dir = "auto";
    box.append(text);
    if (response.length > LONG) {
      const all = make("button", "", `show all ${response.length.toLocaleString("en")} characters`);
      all.type = "button";
      all.onclick = () => { text.textContent = response; all.remove(); };
      box.append(all, " ");
    }
    const tags = [quality, refusal ? "refuses" : "answers", ...(mode ? [mode] : []), ...(ambiguous ? ["ambiguous"] : []), ...(finish === "length" ? ["cut at the token limit"] : finish === "loop" ? ["ended where it was stuck"] : [])];
    if (form.elements.condition.value === "") tags.push(named(group.conditions[number]));
    tags.forEach((tag) => box.append(make("span", "tag", tag), " "));
    return box;
  };

  const showMore = () => {
    list.append(...found.slice(shown, shown + PAGE).map(card));
    shown = Math.min(shown + PAGE, found.length);
    more.hidden = shown >= found.length;
    status.textContent = `${found.length} of ${group.samples.length} samples of ${index[form.elements.group.value].label} match; ${shown} shown.`;
  };

  const filter = () => {
    const { condition, quality, refusal, mode, text } = form.elements;
    const words = text.value.toLowerCase();
    found = group.samples.filter((s) =>
      (condition.value === "" || s[0] === Number(condition.value)) &&
      (quality.value === "" || s[3] === quality.value) &&
      (refusal.value === "" || s[4] === Number(refusal.value)) &&
      (mode.value === "" || (mode.value === "ambiguous" ? s[7] : s[6] === mode.value)) &&
      (words === "" || s[2].toLowerCase().includes(words) || group.prompts[s[1]].toLowerCase().includes(words)));
    shown = 0;
    list.replaceChildren();
    facts();
    showMore();
  };

  const open = (number, key) => {
    form.elements.group.value = String(number);
    status.textContent = "Loading …";
    load(number, () => { group = held.get(number); fillConditions(key); filter(); });
  };

  const fromAddress = () => {
    const match = location.hash.match(/^#c=(\d+)\.(\w+)$/);
    if (!match || !index[match[1]]) return false;
    ["quality", "refusal", "mode", "text"].forEach((name) => { form.elements[name].value = ""; });
    open(Number(match[1]), match[2]);
    byId("samples").scrollIntoView();
    byId("samples").focus({ preventScroll: true });
    return true;
  };

  index.forEach((one, number) => option(form.elements.group, number, `${one.label} (${one.phase}, ${one.n})`));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target === form.elements.group) open(Number(event.target.value), "");
    else if (group) filter();
  });
  more.addEventListener("click", showMore);
  window.addEventListener("hashchange", fromAddress);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  if (index.length && !fromAddress()) open(0, "");
})();
