// The comparator: what a backend team writes by hand. One HTTP server that
// takes the same POST /v1/batches, fetches every item at once with the native
// fetch, settles them with Promise.allSettled and answers JSON per item. It does
// less than settled: no validation, no limit on what runs at once, no retries,
// no deadlines, no abort, and a content-type as the only header it sets.
import { createServer } from 'node:http';

const upstream = process.argv[2];
if (!upstream) {
	console.error('usage: node.mjs URL-PREFIX');
	process.exit(2);
}

async function send(item) {
	const answer = await fetch(upstream + encodeURIComponent(item.to), {
		method: 'POST',
		headers: { 'content-type': 'application/json' },
		body: JSON.stringify(item.payload),
	});
	const body = await answer.json();
	if (!answer.ok) throw new Error(`the downstream answered ${answer.status}`);
	return body.id;
}

async function settle(batch) {
	const settled = await Promise.allSettled(batch.items.map(send));
	const results = settled.map((one, index) => {
		const id = batch.items[index].id;
		return one.status === 'fulfilled'
			? { index, id, status: 'succeeded', ok: true, message_id: one.value }
			: { index, id, status: 'failed', ok: false, error: { message: String(one.reason) } };
	});
	const good = results.filter((r) => r.ok).length;
	const outcome = good === results.length ? 'succeeded' : good > 0 ? 'partial' : 'failed';
	return { outcome, results };
}

const server = createServer(async (req, res) => {
	try {
		const chunks = [];
		for await (const chunk of req) chunks.push(chunk);
		const answer = await settle(JSON.parse(Buffer.concat(chunks).toString()));
		const text = JSON.stringify(answer);
		res.writeHead(answer.outcome === 'succeeded' ? 200 : 207, {
			'content-type': 'application/json',
			'content-length': Buffer.byteLength(text),
		});
		res.end(text);
	} catch (error) {
		res.writeHead(400).end(String(error));
	}
});

server.listen(0, '127.0.0.1', () => console.log(server.address().port));
