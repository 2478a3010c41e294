import createClient from "openapi-fetch";
import type { components, paths } from "./api";
type Schemas = components["schemas"];
const client = createClient<paths>({ baseUrl: "http://127.0.0.1:8000" });
export async function redeem(): Promise<Schemas["RequestStatus"] | string> {
  const { data, error, response } = await client.POST("/v1/redemptions", {
    params: { header: { "Idempotency-Key": "k", Prefer: "wait=5" } },
    body: { resource: "coupon:A", account: "u_42", metadata: { order: 17, tags: ["a"], nested: { deep: true } } },
  });
  if (error) return error.code;
  return response.status === 200 ? data.status : data.stage ?? "final";
}
type Received = NonNullable<import("./api").webhooks["request.completed"]["post"]["requestBody"]>["content"]["application/json"];
export function receive(body: string): Schemas["RequestKind"] {
  const received = JSON.parse(body) as Received;
  return received.data.kind;
}
