/**
 * Keeps the page's files, so that it works without a network, and gives them the headers
 * that a host of static files may not be able to send. The build fills in both tables.
 */
const FILES = __FILES__; // address → hash of the content
const HEADERS = __HEADERS__;
const CACHE = "tfstyle";

/** Loaded when they are needed: which of them depends on the device. */
const LATER = /^(ort|models|samples)\//;

const keyOf = (path) => new URL(`${path}?${FILES[path]}`, registration.scope).href;

async function file(path) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(keyOf(path));
  if (kept) return kept;
  const response = await fetch(new URL(path, registration.scope), { cache: "no-cache" });
  if (response.ok) cache.put(keyOf(path), response.clone()).catch(() => {}); // a full disk
  return response;
}

async function answer(path) {
  const response = await file(path);
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}

async function forgetOthers() {
  const cache = await caches.open(CACHE);
  const keys = new Set(Object.keys(FILES).map(keyOf));
  for (const request of await cache.keys())
    if (!keys.has(request.url)) await cache.delete(request);
}

addEventListener("install", (event) => {
  const now = Object.keys(FILES).filter((path) => !LATER.test(path));
  event.waitUntil(Promise.all(now.map(file)));
});

addEventListener("activate", (event) => {
  event.waitUntil(forgetOthers().then(() => clients.claim()));
});

// The page asks for the samples once it has made its first picture.
addEventListener("message", (event) => {
  const samples = Object.keys(FILES).filter((path) => path.startsWith("samples/"));
  event.waitUntil(Promise.all(samples.map(file)));
});

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const address = url.split(/[?#]/)[0];
  if (method !== "GET" || !address.startsWith(registration.scope)) return;
  const path = address.slice(registration.scope.length) || "index.html";
  if (path in FILES) event.respondWith(answer(path));
});
