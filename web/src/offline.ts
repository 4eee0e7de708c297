/** The service worker, which keeps the page for use without a network. */

const PATIENCE = 4000; // milliseconds

/**
 * Starts it, and waits until what the page loads goes through it. Where that takes long,
 * or cannot be, the page goes on without.
 */
export async function keepForLater(): Promise<void> {
  if (!("serviceWorker" in navigator) || !import.meta.env.PROD) return;
  const container = navigator.serviceWorker;
  const controlled = new Promise<void>((resolve) => {
    if (container.controller) resolve();
    container.addEventListener("controllerchange", () => resolve(), { once: true });
  });
  const late = new Promise<void>((resolve) => setTimeout(resolve, PATIENCE));
  try {
    await container.register("sw.js");
    await Promise.race([controlled, late]);
  } catch (error) {
    console.warn(`tfstyle: this page will not work offline: ${error}`);
  }
}

/** Keeps the samples, too. */
export function keepSamples() {
  navigator.serviceWorker?.controller?.postMessage("samples");
}
