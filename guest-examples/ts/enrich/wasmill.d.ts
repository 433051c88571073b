// The contract with wasmill (wit/events.wit), as JavaScript sees it.

declare module "wasmill:events" {
  /** Names and values of CloudEvents extension attributes. */
  export type Attributes = [name: string, value: string][];

  /** A CloudEvents record. */
  export interface Event {
    id: string;
    source: string;
    type: string;
    /** Milliseconds since the Unix epoch. */
    time: bigint;
    subject?: string;
    schemaVersion?: string;
    partitionKey?: string;
    contentType: string;
    attributes: Attributes;
    /** The payload, untouched. */
    data: Uint8Array;
  }

  /** One attempt to run one event through one handler. */
  export interface Delivery {
    tenant: string;
    handler: string;
    stream: string;
    entryId: string;
    /** 1 for the first attempt. */
    attempt: number;
    maxAttempts: number;
    /** How long this attempt may take from its start. */
    deadlineMs: bigint;
    /** An operator asked for the event to be run again; it may have had its effects before. */
    replay: boolean;
  }

  /** An event to be published. */
  export interface Draft {
    stream: string;
    type: string;
    subject?: string;
    schemaVersion?: string;
    partitionKey?: string;
    contentType: string;
    attributes: Attributes;
    data: Uint8Array;
    /** How long to hold the event back after the delivery has been settled. */
    delayMs?: bigint;
  }

  /** The payload of an error: why an event was not handled. Any other error ends the instance. */
  export type FailurePayload =
    | { tag: "retry"; val: string }
    | { tag: "retry-after"; val: [message: string, milliseconds: bigint] }
    | { tag: "reject"; val: string };

  /** What a component exports under the name `handler`. */
  export interface Handler {
    handle(event: Event, delivery: Delivery): void;
  }
}

declare module "wasmill:events/publisher@0.1.0" {
  import type { Draft } from "wasmill:events";

  /** The payload of an error that `publish` and `publishBatch` throw. */
  export type PublishError =
    | { tag: "denied"; val: string }
    | { tag: "too-large"; val: bigint }
    | { tag: "too-many"; val: number }
    | { tag: "invalid"; val: string };

  /** Publishes one event and returns the id that it will have. */
  export function publish(event: Draft): string;

  /** Publishes all of the events or none of them, and returns their ids in order. */
  export function publishBatch(events: Draft[]): string[];
}

declare module "wasi:logging/logging@0.1.0-draft" {
  export type Level = "trace" | "debug" | "info" | "warn" | "error" | "critical";

  /** Writes a line to the log of the worker. The context says which part of the handler speaks. */
  export function log(level: Level, context: string, message: string): void;
}
