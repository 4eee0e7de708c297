/** What the build knows of the page's files. */
declare module "virtual:files" {
  const files: {
    /** Names of the sample photographs and paintings. */
    photographs: string[];
    paintings: string[];
    /** Bytes by address. */
    sizes: Record<string, number>;
  };
  export default files;
}

/** What this page uses of WebGPU, which TypeScript's library does not know yet. */
interface WorkerNavigator {
  gpu?: { requestAdapter(): Promise<{ info?: { isFallbackAdapter?: boolean } } | null> };
}
interface Navigator extends Pick<WorkerNavigator, "gpu"> {}
