// Lines of {"secret", "headers", "body" (base64)} in; for each, "ok" or what the package threw.
import {createInterface} from 'node:readline';
import {createRequire} from 'node:module';

const {Webhook} = createRequire(process.cwd() + '/')('standardwebhooks');
for await (const line of createInterface({input: process.stdin})) {
  const {secret, headers, body} = JSON.parse(line);
  try {
    new Webhook(secret).verify(Buffer.from(body, 'base64').toString(), headers);
    console.log('ok');
  } catch (error) {
    console.log(`${error.name}: ${error.message}`);
  }
}
