"""The networks, in pure PyTorch: no files, no configuration files, no Kedro.

Shapes are written with these letters: B images, N patches of an image, K context patches,
T target patches (K + T = N), C channels, H and W height and width of an image, P side of a patch,
R and S rows and columns of the patch grid, D features of a patch vector.
"""
