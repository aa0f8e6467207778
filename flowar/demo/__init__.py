"""`flowar demo`: a page that draws and edits. All but `page` and its tabs know nothing of Gradio."""
