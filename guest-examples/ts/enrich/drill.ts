import type { Event } from "wasmill:events";

/** Fails on request, in the ways that the tests of the host need: it is not part of the example. */
export function drill(event: Event): void {
  if (event.type !== "drill") return;
  switch (new TextDecoder().decode(event.data)) {
    case "trap":
      throw new Error("a drill");
    case "spin":
      for (;;);
    case "hog":
      for (const hoard: Uint8Array[] = []; ; ) hoard.push(new Uint8Array(1 << 20).fill(1));
  }
}
