"""The page of `flowar demo`, which draws and edits; only `page` and its tabs know Gradio."""
