// Reads objects as JSON (an array) from standard input and holds them to the shape that their makers publish.
import { readFileSync } from "node:fs";
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as monitoring from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const groups = { "keda.sh/v1alpha1": keda, "monitoring.coreos.com/v1": monitoring };
let wrong = 0;
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const place = `${object.kind} ${object.metadata.name}`;
  const kind = groups[object.apiVersion]?.[object.kind];
  try {
    if (kind === undefined) throw new Error(`no shape is published for ${object.apiVersion}`);
    new kind(object).validate();
  } catch (error) {
    console.log(`${place}: ${error.message}`);
    wrong = 1;
  }
}
process.exit(wrong);
