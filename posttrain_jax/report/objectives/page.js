'use strict';
(function () {
  const views = ['functions', 'recipes'];
  const search = document.getElementById('search');
  const count = document.getElementById('count');
  const clear = document.getElementById('clear');
  const nothing = document.getElementById('nothing');
  const all = (selector, root) =>
    Array.from((root || document).querySelectorAll(selector));
  const pressed = (button) => button.getAttribute('aria-pressed') === 'true';
  const press = (button, on) => button.setAttribute('aria-pressed', String(on));
  let current = 'functions';

  function chosen(view, kind) {
    const chips = all('[data-' + kind + ']', view).filter((chip) =>
      chip.matches('.chip')
    );
    return chips.filter(pressed).map((chip) => chip.dataset[kind]);
  }

  // Every word must be found; of groups any one, of needs all. Both views are
  // filtered, so that each tab says how many it has.
  function filterView(name, words) {
    const view = document.getElementById(name);
    const groups = chosen(view, 'group');
    const needs = chosen(view, 'need');
    const entries = all('.entry', view);
    let shown = 0;
    for (const entry of entries) {
      const own = entry.dataset.needs.split('|');
      const fits =
        words.every((word) => entry.dataset.search.includes(word)) &&
        (!groups.length || groups.includes(entry.dataset.group)) &&
        needs.every((need) => own.includes(need));
      entry.hidden = !fits;
      shown += fits;
    }
    for (const section of all('[data-section]', view)) {
      section.hidden = !section.querySelector('.entry:not([hidden])');
    }
    document.querySelector('[data-view="' + name + '"] span').textContent =
      shown;
    if (name !== current) return;
    const filtered = words.length + groups.length + needs.length > 0;
    count.textContent = filtered ? shown + ' of ' + entries.length : '';
    clear.hidden = !filtered;
    nothing.hidden = shown > 0;
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    views.forEach((name) => filterView(name, words));
  }

  function show(name) {
    current = name;
    for (const view of views) {
      document.getElementById(view).hidden = view !== name;
    }
    for (const button of all('[data-view]')) {
      press(button, button.dataset.view === name);
    }
    filter();
  }

  function reset() {
    search.value = '';
    all('.chip').forEach((chip) => press(chip, false));
    filter();
  }

  // A link to an entry shows it, whatever is being filtered.
  function follow() {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    const view = target && target.closest('main');
    if (!view) return;
    if (view.id !== current) show(view.id);
    if (target.closest('[hidden]')) reset();
    target.scrollIntoView();
  }

  search.addEventListener('input', filter);
  clear.addEventListener('click', () => {
    reset();
    search.focus();
  });
  document.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (!button) return;
    if (button.dataset.view) {
      show(button.dataset.view);
      window.scrollTo(0, 0);
    } else if (button.matches('.chip')) {
      press(button, !pressed(button));
      filter();
    }
  });
  document.addEventListener('keydown', (event) => {
    const typing = /^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === '/' && !typing) {
      event.preventDefault();
      search.focus();
    }
  });
  window.addEventListener('hashchange', follow);

  if (window.matchMedia('(max-width: 40rem)').matches) {
    all('.filters').forEach((details) => (details.open = false));
  }
  show(current);
  follow();
})();
