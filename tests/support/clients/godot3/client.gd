extends SceneTree
# Asks a node by the HTTPClient of Godot 3: whole, streamed, and cancelled after the first piece.

const HEADERS := ["Content-Type: application/json"]
const PENDING := [
	HTTPClient.STATUS_RESOLVING,
	HTTPClient.STATUS_CONNECTING,
	HTTPClient.STATUS_REQUESTING,
]

var _http := HTTPClient.new()


func _init() -> void:
	var whole := _asked("/txt", {"prompt": "hello", "stream": false})
	print("whole: ", JSON.parse(whole[0]).result.response)
	var body := {"model": "m", "stream": true, "messages": [{"role": "user", "content": "hello"}]}
	var text := ""
	var lines := _asked("/v1/chat/completions", body)
	for line in lines:
		if line.begins_with("data: {"):
			for choice in JSON.parse(line.substr(6)).result.choices:
				if choice.delta.has("content"):
					text += choice.delta.content
	print("streamed: ", text)
	print("last: ", lines[-1])
	body["max_tokens"] = 2000
	body["logit_bias"] = {"257": -100}  # the model's end of text
	_asked("/v1/chat/completions", body, 3)
	print("cancelled")
	quit()


func _asked(path: String, body: Dictionary, enough := 0) -> Array:
	_http.close()
	_http.connect_to_host("127.0.0.1", 8000)
	_wait()
	_http.request(HTTPClient.METHOD_POST, path, HEADERS, JSON.print(body))
	_wait()
	print(path, " ", _http.get_response_code())
	var lines := []
	var bytes := PoolByteArray()
	while _http.get_status() == HTTPClient.STATUS_BODY:
		_http.poll()
		# A chunk is often empty, and may end within a character.
		for byte in _http.read_response_body_chunk():
			if byte != 10:
				bytes.append(byte)
			elif bytes.size():
				lines.append(bytes.get_string_from_utf8())
				bytes = PoolByteArray()
		if enough and lines.size() >= enough:
			_http.close()
		OS.delay_msec(1)
	if bytes.size():
		lines.append(bytes.get_string_from_utf8())
	return lines


func _wait() -> void:
	while _http.get_status() in PENDING:
		_http.poll()
		OS.delay_msec(1)
