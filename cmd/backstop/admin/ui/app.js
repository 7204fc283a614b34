// The dashboard's script. The server draws; this asks for a part anew, carries
// out what is clicked, and follows the notices. What others have said is put on
// the page by the server's templates, or here as textContent.
'use strict';

document.documentElement.classList.add('js');

const $ = (id) => document.getElementById(id);
const parts = () => [...document.querySelectorAll('[data-part]')];
const encode = encodeURIComponent;

// ---- Times: "12 s ago", kept up to date.

const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];

function relative(seconds) {
  const far = Math.abs(seconds);
  if (far < 1) return 'now';
  const [unit, size] = units.find(([, size]) => far >= size);
  const text = `${Math.floor(far / size)} ${unit}`;
  return seconds < 0 ? `${text} ago` : `in ${text}`;
}

function tellTimes(within) {
  for (const time of within.querySelectorAll('time')) {
    const at = new Date(time.dateTime);
    time.title ||= at.toLocaleString();
    const text = relative((at - Date.now()) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

// ---- Parts: asked for anew, without losing what the reader is at.

// place is what the reader has open and where the focus is, by data-key.
function place(part) {
  const open = new Map();
  for (const d of part.querySelectorAll('details[data-key]')) open.set(d.dataset.key, d.open);
  return { open, focus: part.contains(document.activeElement) ? document.activeElement.dataset.key : undefined };
}

const withKey = (part, key) => [...part.querySelectorAll('[data-key]')].find((e) => e.dataset.key === key);

function show(part, html) {
  if (part.shown === html) return;
  const was = place(part);
  const doc = new DOMParser().parseFromString(html, 'text/html'); // its scripts don't run
  for (const d of doc.querySelectorAll('details[data-key]')) {
    if (was.open.has(d.dataset.key)) d.open = was.open.get(d.dataset.key);
  }
  part.replaceChildren(...doc.body.childNodes);
  part.shown = html;
  tellTimes(part);
  if (was.focus) withKey(part, was.focus)?.focus({ preventScroll: true });
}

// busyReading says that replacing the part would take something from under the
// reader's hands.
function busyReading(part) {
  const selection = getSelection();
  return !selection.isCollapsed && part.contains(selection.anchorNode) || part.contains(document.activeElement) && document.activeElement.matches('input, select');
}

function stale(part, why) {
  let note = part.previousElementSibling;
  if (!note?.classList.contains('stale')) {
    if (!why) return;
    note = document.createElement('p');
    note.className = 'stale';
    note.dataset.since = new Date().toLocaleTimeString();
    part.before(note);
  }
  if (why) note.textContent = `Not up to date since ${note.dataset.since}: ${why}`;
  else note.remove();
}

async function refresh(part, asked) {
  if (!asked && busyReading(part)) return;
  const turn = part.turn = (part.turn || 0) + 1; // a later request wins
  if (asked) part.setAttribute('aria-busy', 'true');
  try {
    const response = await fetch(`/ui/${part.dataset.part}${location.search}`);
    const text = await response.text();
    if (response.status === 401) return location.assign('/login');
    if (turn !== part.turn) return;
    if (!response.ok) {
      stale(part, new DOMParser().parseFromString(text, 'text/html').querySelector('main p')?.textContent ?? response.statusText);
      return;
    }
    stale(part);
    show(part, text);
    part.at = Date.now();
    if (part.dataset.part === 'overview') tellTitle();
  } catch {
    if (turn === part.turn) stale(part, 'Backstop can’t be reached.');
  } finally {
    if (turn === part.turn) part.removeAttribute('aria-busy');
  }
}

function tellTitle() {
  const alerts = Number($('overview')?.dataset.alerts ?? 0);
  document.title = alerts ? `(${alerts}) Backstop` : 'Backstop';
}

const partNamed = (name) => parts().find((p) => p.dataset.part === name);

// look asks for what is due. A page that nobody sees asks less often.
function look() {
  tellTimes(document);
  const slower = document.hidden ? 12 : 1;
  for (const part of parts()) {
    const every = Number(part.dataset.every ?? 0) * 1000 * slower;
    if (every && Date.now() - (part.asked ?? 0) >= every) {
      part.asked = Date.now();
      refresh(part);
    }
  }
}

// follow goes to another address of this page: filters, a search, a next page.
function follow(query, name) {
  const url = new URL(location.href);
  for (const [key, value] of query) value ? url.searchParams.set(key, value) : url.searchParams.delete(key);
  url.hash = '';
  history.replaceState(null, '', url);
  for (const field of document.querySelectorAll('form[data-for] [name]')) field.value = url.searchParams.get(field.name) ?? '';
  return refresh(partNamed(name), true);
}

document.addEventListener('submit', (event) => {
  const name = event.target.dataset.for;
  if (!name) return;
  event.preventDefault();
  const query = new FormData(event.target);
  for (const prefix of ['d-', 'a-']) {
    if ([...query.keys()].some((key) => key.startsWith(prefix))) query.set(`${prefix}cursor`, '');
  }
  follow(query, name);
});

// ---- What can be done.

const acts = {
  open: { title: 'Open the breaker', text: 'Nothing is sent there until you reset it: events wait in a lane of their own, calls are answered by the fallback.', done: 'the breaker is open.', why: 'reason' },
  reset: { title: 'Reset the breaker', text: 'Webhooks are sent again at once, and what waits is caught up on.', done: 'the breaker is closed.', why: '' },
  disable: { title: 'Disable the endpoint', text: 'Nothing is sent there, and its events become dead letters until you enable it.', done: 'disabled.', why: 'reason' },
  enable: { title: 'Enable the endpoint', text: 'Webhooks are sent there again. Dead letters stay until you replay them.', done: 'enabled.', why: '' },
  approve: { title: 'Approve the call', text: 'The app is sent the call, as an event, until it takes it.', done: 'approved.', why: 'reason' },
  reject: { title: 'Reject the call', text: 'The app is not sent the call, and the result says that it was rejected.', done: 'rejected.', why: 'reason' },
};

const paths = {
  open: (d) => `breakers/${encode(d.app)}/${encode(d.capability)}/open`,
  reset: (d) => `breakers/${encode(d.app)}/${encode(d.capability)}/reset`,
  disable: (d) => `apps/${encode(d.app)}/disable?capability=${encode(d.capability)}`,
  enable: (d) => `apps/${encode(d.app)}/enable?capability=${encode(d.capability)}`,
  approve: (d) => `pending/${encode(`${d.capability}.${d.app}.${d.id}`)}/approve`,
  reject: (d) => `pending/${encode(`${d.capability}.${d.app}.${d.id}`)}/reject`,
};

async function post(path, body) {
  let response;
  try {
    response = await fetch(`/api/v1/${path}`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  } catch {
    throw new Error('Backstop can’t be reached; look whether it was done before you try again.');
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail ?? response.statusText);
  return answer;
}

let toldTimer;
function tell(text) {
  $('told').textContent = text;
  clearTimeout(toldTimer);
  toldTimer = setTimeout(() => { $('told').textContent = ''; }, 12000);
}

const of = (d) => `${d.capability || 'every capability'} of ${d.app === '_' ? 'every app' : d.app || 'every app'}`;

// ask opens the dialog, and does it when that is what is answered. What fails is
// told in the dialog, which stays.
function ask({ title, text, button, why, act }) {
  const dialog = $('ask');
  $('ask-title').textContent = title;
  $('ask-text').textContent = text;
  $('ask-do').textContent = button;
  $('ask-do').disabled = false;
  $('ask-why').value = '';
  $('ask-why-field').hidden = !why;
  $('ask-problem').hidden = true;
  dialog.querySelector('form').onsubmit = async (event) => {
    if (event.submitter === $('ask-cancel')) return;
    event.preventDefault();
    if ($('ask-do').disabled) return;
    $('ask-do').disabled = true;
    try {
      const done = await act($('ask-why').value);
      dialog.close();
      tell(done);
    } catch (error) {
      $('ask-problem').textContent = error.message;
      $('ask-problem').hidden = false;
    }
    $('ask-do').disabled = false;
    soon(['overview', 'deadletters', 'pending']);
  };
  dialog.showModal();
  (why ? $('ask-why') : $('ask-do')).focus();
}

// decide replays or discards: a dry run says how many, and the answer to it is
// for just those.
async function decide(verb, data) {
  const filter = { app: data.app, capability: data.capability, reason: data.reason };
  const what = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
  if (data.id) what.ids = [data.id];
  else if (!Object.keys(what).length) what.all = true;
  const dry = await post(`dlq/${verb}`, { ...what, dryRun: true });
  if (!dry.matched) return tell('There is no such dead letter any more.');
  const count = `${dry.matched.toLocaleString('en')} dead letter${dry.matched === 1 ? '' : 's'}`;
  const which = data.id ? `Event ${data.id} for ${of(data)}.` : what.all ? 'All there are.' : `Of ${of(data)}${data.reason ? `, given up because: ${data.reason.replaceAll('_', ' ')}` : ''}.`;
  const seconds = Math.ceil(dry.estimatedMs / 1000);
  const replay = verb === 'replay';
  ask({
    title: `${replay ? 'Replay' : 'Discard'} ${count}?`,
    text: `${which} ${replay ? 'They are published again, with the same ids.' : 'They are gone for good.'} It takes about ${seconds} s. What was given up since is not touched.`,
    button: `${replay ? 'Replay' : 'Discard'} ${count}`, why: 'why',
    act: async (why) => {
      const sum = { done: 0, skipped: 0, failed: 0 };
      for (let cursor = dry.cursor; cursor;) {
        const out = await post(`dlq/${verb}`, { ...what, why, cursor });
        for (const key of Object.keys(sum)) sum[key] += out[key];
        if (out.problem) throw new Error(`${sum.done} done, ${sum.failed} failed, ${out.left} left: ${out.problem.detail}`);
        cursor = out.left ? out.cursor : '';
        if (cursor) $('ask-text').textContent = `${sum.done.toLocaleString('en')} done, ${out.left.toLocaleString('en')} left`;
      }
      return `${sum.done.toLocaleString('en')} ${replay ? 'replayed' : 'discarded'}${sum.skipped ? `, ${sum.skipped} were gone already` : ''}.`;
    },
  });
}

function start(name, data) {
  const { title, text, done, why } = acts[name];
  ask({
    title: `${title}?`, text: `${data.id ? `${data.id}: ` : ''}${of(data)}. ${text}`, button: title, why,
    act: async (reason) => {
      await post(paths[name](data), why ? { [why]: reason } : {});
      return `${data.id ?? of(data)}: ${done}`;
    },
  });
}

let lastKey;
document.addEventListener('click', async (event) => {
  const target = event.target.closest('[data-act], [data-show], [data-view]');
  if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const data = { ...target.dataset };
  lastKey = data.key;
  event.preventDefault();
  try {
    if (data.act === 'replay' || data.act === 'discard') await decide(data.act, data);
    else if (data.act) start(data.act, data);
    else if ('view' in data) await view(target.href);
    else {
      await follow(new URL(target.href).searchParams, data.show);
      const title = $(`${data.show}-title`);
      title.tabIndex = -1;
      title.focus();
      title.scrollIntoView();
    }
  } catch (error) {
    tell(error.message);
  }
});

// view shows a page of one thing in a dialog.
async function view(url) {
  const response = await fetch(url);
  const doc = new DOMParser().parseFromString(await response.text(), 'text/html');
  $('view-body').replaceChildren(...doc.querySelector('main').childNodes);
  tellTimes($('view-body'));
  $('view').showModal();
}

// The button that opened a dialog may have been drawn anew since.
for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('close', () => {
    const key = lastKey;
    if (key && document.activeElement === document.body) withKey(document, key)?.focus({ preventScroll: true });
  });
}

// soon asks for parts when what is happening has had time to happen.
const due = new Set();
let soonTimer;
function soon(names) {
  names.forEach((name) => due.add(name));
  soonTimer ??= setTimeout(() => {
    soonTimer = undefined;
    for (const name of due) refresh(partNamed(name));
    due.clear();
  }, 400);
}

// ---- Notices, as they happen.

const mostNotices = 200;
const unseen = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;

function add(notice) {
  const list = $('notice-list');
  if (!list || notice.sequence <= Number(list.dataset.last)) return;
  list.dataset.last = notice.sequence;
  const item = document.createElement('li');
  item.className = 'new';
  const cell = (tag, name, text) => {
    const e = item.appendChild(document.createElement(tag));
    e.className = name;
    e.textContent = String(text).replaceAll(unseen, '\uFFFD');
    item.append(' ');
    return e;
  };
  cell('span', 'kind', notice.kind.replaceAll('_', ' '));
  const time = cell('time', '', '');
  const at = new Date(notice.time);
  time.dateTime = Number.isNaN(at.valueOf()) ? new Date().toISOString() : at.toISOString();
  cell('span', 'message', notice.message);
  tellTimes(item);
  list.prepend(item);
  while (list.children.length > mostNotices) list.lastElementChild.remove();
  $('no-notices').hidden = true;
  soon(['overview', ...parts().filter((p) => p.dataset.on?.split(' ').includes(notice.kind)).map((p) => p.dataset.part)]);
}

function connected(yes) {
  const place = $('connection');
  const text = yes ? 'Live' : 'Disconnected, trying again';
  if (place.textContent === text) return;
  place.textContent = text;
  place.classList.toggle('lost', !yes);
}

// listen follows the stream. The browser comes back by itself when the
// connection is lost, and this when it was refused.
async function listen() {
  if (!$('notice-list')) await refresh(partNamed('notices'), true); // it could not be shown when the page was made
  const list = $('notice-list');
  if (!list) {
    connected(false);
    return setTimeout(listen, 3000);
  }
  const source = new EventSource(`/api/v1/stream?after=${list.dataset.last}`);
  source.onopen = () => {
    connected(true);
    parts().filter((p) => p.dataset.every).forEach((p) => { p.asked = 0; });
  };
  source.onmessage = (event) => {
    try { add(JSON.parse(event.data)); } catch { /* not a notice */ }
  };
  source.onerror = () => {
    connected(false);
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(listen, 3000);
  };
}

parts().forEach((part) => { part.asked = Date.now(); });
tellTimes(document);
tellTitle();
setInterval(look, 1000);
document.addEventListener('visibilitychange', () => { if (!document.hidden) look(); });
listen();
