"""The core's control methods: `rpc.*`, `node.*`, `plugin.*` and `config.*`."""
