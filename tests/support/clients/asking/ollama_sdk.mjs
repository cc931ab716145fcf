// Asks a node by Ollama's own JavaScript client; ends with an error if an answer is not right.
import assert from 'node:assert/strict'
import { Ollama } from 'ollama'

const client = new Ollama({ host: process.argv[2] })
const model = 'm'
const messages = [{ role: 'user', content: 'hello' }]
const options = { temperature: 0, num_predict: 8 }
const tools = [{ type: 'function', function: { name: 'look',
  parameters: { type: 'object', properties: { at: { type: 'string' } } } } }]

assert((await client.list()).models.some(each => each.name === 'm:latest'))
assert.equal((await client.show({ model })).model_info['llama.block_count'], 3)
assert((await client.ps()).models.some(each => each.model === 'm:latest'))
const whole = (await client.chat({ model, messages, options })).message.content
let text = ''
for await (const part of await client.chat({ model, messages, options, stream: true }))
  text += part.message.content
assert.equal(text, whole)
const first = await client.generate({ model, prompt: 'hello', options })
const second = await client.generate({ model, prompt: 'more', options, context: first.context })
assert.deepEqual(second.context.slice(0, first.context.length), first.context)
const formed = await client.chat({ model, messages, format: { type: 'boolean' } })
assert.equal(typeof JSON.parse(formed.message.content), 'boolean')
assert.equal((await client.embed({ model: 'embed', input: ['one', 'two'] })).embeddings.length, 2)
const called = (await client.chat({ model, messages, tools })).message
assert.deepEqual(called.tool_calls[0].function.arguments, { at: 'Bern' })
const turns = [...messages, called, { role: 'tool', tool_name: 'look', content: 'sun' }]
assert.equal((await client.chat({ model, messages: turns, tools })).message.content,
  'It is sunny there.')
const failing = [
  [404, () => client.chat({ model: 'none', messages })],
  [503, () => client.chat({ model: 'gap', messages })],
  [501, () => client.create({ model: 'n', from: 'm' })],
  [404, () => client.delete({ model })],
]
for (const [status, call] of failing)
  await assert.rejects(call, error => error.status_code === status)
console.log('right')
