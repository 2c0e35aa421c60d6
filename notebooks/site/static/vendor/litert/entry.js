// What the page takes of LiteRT.js, with the glue of its WebAssembly in the same script.
import ModuleFactory from "./glue.cjs";
import { Tensor, loadAndCompile, loadLiteRt } from "@litertjs/core";

export { Tensor, loadAndCompile };

/** Starts the runtime on the bytes of its WebAssembly, in a worker. */
export async function start(wasmBinary) {
  // The package would load the glue by importScripts, which a module worker does not have.
  self.importScripts = () => {};
  self.ModuleFactory = ModuleFactory;
  self.Module = { wasmBinary, print() {}, printErr() {} };
  // It would ask for a graphics processor, which is not used.
  Object.defineProperty(navigator, "gpu", { value: undefined });
  await loadLiteRt("bundled.js");
}
