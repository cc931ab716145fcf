// Asks a node by OpenAI's own JavaScript client; ends with an error if an answer is not right.
import assert from 'node:assert/strict'
import OpenAI from 'openai'

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none', maxRetries: 2 })
const model = 'm'
const messages = [{ role: 'user', content: 'hello' }]
const greedy = { model, messages, temperature: 0, max_tokens: 8 }
const parameters = { type: 'object', properties: { at: { type: 'string' } }, required: ['at'] }
const tools = [{ type: 'function', function: { name: 'look', parameters } }]

const names = []
for await (const each of client.models.list()) names.push(each.id)
assert(names.includes('m') && names.includes('embed'))

const both = await client.chat.completions.create(
  { ...greedy, n: 2, logprobs: true, top_logprobs: 2 })
const text = both.choices[0].message.content
assert(text && text === both.choices[1].message.content)
const tokens = both.choices[0].logprobs.content
assert.equal(tokens.map(each => each.token).join(''), text)
assert(tokens.every(each => each.logprob === each.top_logprobs[0].logprob))
let streamed = ''
let usage
for await (const chunk of await client.chat.completions.create(
  { ...greedy, stream: true, stream_options: { include_usage: true } })) {
  usage = chunk.usage ?? usage
  for (const choice of chunk.choices) streamed += choice.delta.content ?? ''
}
assert.equal(streamed, text)
assert.equal(usage.completion_tokens * 2, both.usage.completion_tokens)
const stop = text.slice(1, 3)
const stopped = await client.chat.completions.create({ ...greedy, stop: [stop, 'never'] })
assert.equal(stopped.choices[0].message.content, text.slice(0, text.indexOf(stop)))
const drawn = []
for (const seed of [-7, -7]) {
  const each = await client.chat.completions.create({ ...greedy, seed, temperature: 2 })
  drawn.push(each.choices[0].message.content)
}
assert.equal(drawn[0], drawn[1])

const schema = { type: 'object', properties: { fine: { type: 'boolean' } },
  required: ['fine'], additionalProperties: false }
for (let seed = 0; seed < 50; seed++) {
  const parsed = await client.chat.completions.parse({ model, messages, seed, response_format: {
    type: 'json_schema', json_schema: { name: 'verdict', strict: true, schema } } })
  assert.equal(typeof parsed.choices[0].message.parsed.fine, 'boolean')
}

const called = await client.chat.completions.stream({ model, messages, tools }).finalMessage()
assert.deepEqual(JSON.parse(called.tool_calls[0].function.arguments), { at: 'Bern' })
const result = { role: 'tool', tool_call_id: called.tool_calls[0].id, content: 'sun' }
const after = await client.chat.completions.create(
  { model, messages: [...messages, called, result], tools })
assert.equal(after.choices[0].message.content, 'It is sunny there.')

const input = ['one', 'two']
const coded = await client.embeddings.create({ model: 'embed', input })
const plain = await client.embeddings.create({ model: 'embed', input, encoding_format: 'float' })
assert.deepEqual(coded.data.map(row => row.embedding), plain.data.map(row => row.embedding))

const said = await client.responses.create(
  { model, input: 'hello', temperature: 0, max_output_tokens: 8 })
assert.equal(said.output_text, text)
const flat = [{ type: 'function', name: 'look', parameters, strict: true }]
const events = client.responses.stream({ model, input: 'hello', tools: flat })
const kinds = []
for await (const event of events) kinds.push(event.type)
assert.deepEqual([kinds[0], kinds.at(-1)], ['response.created', 'response.completed'])
assert.equal((await events.finalResponse()).output[0].type, 'function_call')

const long = [{ role: 'user', content: 'word '.repeat(4000) }]
const failing = [
  [() => client.completions.create({ model, prompt: 'a', echo: true }), OpenAI.BadRequestError],
  [() => client.chat.completions.create({ model, messages: long }), OpenAI.BadRequestError],
  [() => client.chat.completions.create({ model: 'none', messages }), OpenAI.NotFoundError],
  [() => client.chat.completions.create({ model: 'gap', messages }), OpenAI.InternalServerError],
  [() => client.withOptions({ apiKey: 'ait_' + 'x'.repeat(43) }).models.list(),
    OpenAI.AuthenticationError],
]
for (const [call, kind] of failing)
  await assert.rejects(call, error => error instanceof kind && !!error.requestID)
console.log('right')
