// Asks a node by Anthropic's own JavaScript client; ends with an error if an answer is not right.
import assert from 'node:assert/strict'
import Anthropic from '@anthropic-ai/sdk'

const client = new Anthropic({ baseURL: process.argv[2], apiKey: 'none' })
const messages = [{ role: 'user', content: 'hello' }]
const asked = { model: 'm', max_tokens: 50, messages }
const tools = [{ name: 'look',
  input_schema: { type: 'object', properties: { at: { type: 'string' } } } }]

const names = []
for await (const model of client.models.list()) names.push(model.id)
assert(names.includes('m'))
const whole = await client.messages.create({ ...asked, max_tokens: 8, temperature: 0 })
const pieces = await client.messages.stream({ ...asked, max_tokens: 8, temperature: 0 }).finalText()
assert.equal(pieces, whole.content[0].text)
const counted = await client.messages.countTokens({ model: 'm', messages })
assert.equal(counted.input_tokens, whole.usage.input_tokens)
const stream = client.messages.stream({ ...asked, tools })
const first = await stream.finalMessage()
const used = first.content.find(block => block.type === 'tool_use')
assert.deepEqual([used.input, first.stop_reason], [{ at: 'Bern' }, 'tool_use'])
const result = { type: 'tool_result', tool_use_id: used.id, content: 'sun' }
const turns = [...messages, { role: 'assistant', content: first.content },
  { role: 'user', content: [result] }]
const told = await client.messages.create({ ...asked, messages: turns, tools })
assert.equal(told.content[0].text, 'It is sunny there.')
await assert.rejects(() => client.messages.create({ ...asked, model: 'none' }),
  Anthropic.NotFoundError)
console.log('right')
